// Every page works without this file; it adds local time, one sending of a form, and the modal of a new key.

const localTime = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
});

function showLocalTimes() {
  for (const time of document.querySelectorAll("time[data-local]")) {
    time.textContent = localTime.format(new Date(time.dateTime));
  }
}

// A second click would be answered without the key, and its answer would take the place of the one that shows it.
function sendOnce(form) {
  form.addEventListener("submit", (event) => {
    if ("sent" in form.dataset) event.preventDefault();
    form.dataset.sent = "";
  });
  window.addEventListener("pageshow", () => delete form.dataset.sent);
}

async function copyKey(button, code, status) {
  status.textContent = "";
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.dataset.copied = "";
    status.textContent = "Copied to the clipboard.";
  } catch {
    // Refused, or not there at all on a site without TLS.
    delete button.dataset.copied;
    window.getSelection().selectAllChildren(code);
    status.textContent = "Could not copy by itself. The key is selected: press Ctrl+C (⌘C on a Mac).";
  }
}

// A modal lets Tab out to the browser's own controls by way of the page; here it goes round, as in any dialog.
function holdFocus(dialog) {
  const stops = dialog.querySelectorAll("a, button");
  const first = stops[0];
  const last = stops[stops.length - 1];
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Tab" || document.activeElement !== (event.shiftKey ? first : last)) return;
    event.preventDefault();
    (event.shiftKey ? last : first).focus();
  });
}

function presentNewKey(dialog) {
  const { keysUrl } = dialog.dataset;
  const code = dialog.querySelector("#api-key");
  const copy = dialog.querySelector("#copy-key");
  const status = dialog.querySelector("#copy-status");

  // From here on this page is the list in the browser's history, so that reload asks for the list and posts nothing.
  history.replaceState(null, "", keysUrl);

  copy.hidden = false;
  copy.addEventListener("click", () => copyKey(copy, code, status));

  // The button's form leads to the list without script; with it, it closes the dialog as Escape does.
  dialog.querySelector("#close-created").method = "dialog";
  dialog.addEventListener("close", () => {
    code.remove();
    location.replace(keysUrl);
  });
  dialog.removeAttribute("open");
  dialog.showModal();
  holdFocus(dialog);

  // A page kept in memory for the way back must not hold the key.
  window.addEventListener("pagehide", () => code.remove());
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.replace(keysUrl);
  });
}

showLocalTimes();
document.querySelectorAll("form[data-send-once]").forEach(sendOnce);
const createdKey = document.querySelector("#created-key");
if (createdKey) presentNewKey(createdKey);
