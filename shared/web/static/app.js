// Every page works without this file; it adds local time, one sending of a form, and the way of the focus.

const localTime = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
});

function showLocalTimes() {
  for (const time of document.querySelectorAll("time[data-local]")) {
    time.textContent = localTime.format(new Date(time.dateTime));
  }
}

// A second click would be answered without the key, and its answer would take the place of the one that shows it.
// On the document, so that what checks a form has its say before.
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

// Who closes the modal of a new key goes on at that key in the list.
function takeUpFocus() {
  const address = sessionStorage.getItem("focus-on");
  sessionStorage.removeItem("focus-on");
  if (address) document.querySelector(`main a[href="${CSS.escape(address)}"]`)?.focus();
}

showLocalTimes();
takeUpFocus();
document.addEventListener("submit", sendOnce);
window.addEventListener("pageshow", allowSending);
