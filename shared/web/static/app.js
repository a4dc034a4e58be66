// Every page works without this file. It adds local times, prevents double submits and restores the focus.

const localTime = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
});

function showLocalTimes() {
  for (const time of document.querySelectorAll("time[data-local]")) {
    time.textContent = localTime.format(new Date(time.dateTime));
  }
}

// The response to a second click wouldn't contain the key, and would replace the one that does.
// Listens on the document, so that the checks of a form run first.
function sendOnce(event) {
  const form = event.target;
  if (event.defaultPrevented || !("sendOnce" in form.dataset)) return;
  if ("sent" in form.dataset) event.preventDefault();
  form.dataset.sent = "";
  form.setAttribute("aria-busy", "true");
}

function allowSending() {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    form.removeAttribute("aria-busy");
  }
}

// After the modal of a new key closes, moves the focus to that key in the list.
function restoreFocus() {
  const href = sessionStorage.getItem("focus-on");
  sessionStorage.removeItem("focus-on");
  if (href) document.querySelector(`main a[href="${CSS.escape(href)}"]`)?.focus();
}

showLocalTimes();
restoreFocus();
document.addEventListener("submit", sendOnce);
window.addEventListener("pageshow", allowSending);
