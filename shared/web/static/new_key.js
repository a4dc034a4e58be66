// The modal of a new key. Without JavaScript it is open on its page. Here it becomes a modal dialog whose key can be
// hidden and copied, and which asks for confirmation before it closes without the key being copied.

const dialog = document.querySelector("#created-key");
const { keysUrl, keyUrl } = dialog.dataset;
const code = dialog.querySelector("#api-key");
const cover = dialog.querySelector("#cover-key");
const copy = dialog.querySelector("#copy-key");
const status = dialog.querySelector("#copy-status");
const question = document.importNode(dialog.querySelector("#uncopied").content, true).firstElementChild;
const foot = dialog.querySelector(".modal-foot");
let isCopied = false;

function showStatus(message, isFailure = false) {
  status.textContent = message;
  status.classList.toggle("failed", isFailure);
}

function show(isShown) {
  code.classList.toggle("covered", !isShown);
  cover.textContent = isShown ? "Hide" : "Show";
  cover.setAttribute("aria-label", isShown ? "Hide API key" : "Show API key");
}

function noteCopied() {
  isCopied = true;
  copy.dataset.copied = "";
  showStatus("Copied to the clipboard.");
}

async function copyKey() {
  showStatus("");
  try {
    await navigator.clipboard.writeText(code.textContent);
    noteCopied();
  } catch {
    // The clipboard is denied, or doesn't exist on a site without TLS.
    show(true);
    window.getSelection().selectAllChildren(code);
    showStatus("Couldn't copy automatically. The key is selected: press Ctrl+C (⌘C on a Mac).", true);
  }
}

async function copySnippet(button) {
  const text = document.getElementById(button.dataset.copies);
  showStatus("");
  try {
    await navigator.clipboard.writeText(text.textContent);
    showStatus("Example copied. It doesn't contain the key.");
  } catch {
    window.getSelection().selectAllChildren(text);
    showStatus("Couldn't copy automatically. The example is selected: press Ctrl+C (⌘C on a Mac).", true);
  }
}

function ask(isAsked) {
  if (isAsked) foot.replaceWith(question);
  else question.replaceWith(foot);
  (isAsked ? question.querySelector("button") : copy).focus();
}

function leave() {
  code.remove();
  sessionStorage.setItem("focus-on", keyUrl);
  location.replace(keysUrl);
}

function close() {
  if (isCopied) leave();
  else ask(true);
}

// Browsers let Tab leave the dialog for their own controls. Here it cycles within the dialog.
function holdFocus(event) {
  const stops = [...dialog.querySelectorAll("a, button, summary, pre")].filter((stop) => stop.checkVisibility());
  const [first, last] = [stops[0], stops[stops.length - 1]];
  if (document.activeElement !== (event.shiftKey ? first : last)) return;
  event.preventDefault();
  (event.shiftKey ? last : first).focus();
}

function onKey(event) {
  if (event.key === "Tab") holdFocus(event);
  if (event.key !== "Escape") return;
  // By default a second Escape closes a dialog without asking.
  event.preventDefault();
  if (question.isConnected) ask(false);
  else close();
}

// Replaces this page by the list in the browser's history, so that a reload doesn't post the form again.
history.replaceState(null, "", keysUrl);

copy.hidden = cover.hidden = false;
copy.addEventListener("click", copyKey);
cover.addEventListener("click", () => show(code.classList.contains("covered")));
for (const button of dialog.querySelectorAll("[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", () => copySnippet(button));
}
dialog.querySelector("#close-created").addEventListener("submit", (event) => {
  event.preventDefault();
  close();
});
question.querySelector("#copy-and-close").addEventListener("click", async () => {
  await copyKey();
  if (isCopied) leave();
  else ask(false);
});
question.querySelector("#close-uncopied").addEventListener("click", leave);
dialog.querySelector("#view-details").addEventListener("click", () => sessionStorage.setItem("focus-on", keyUrl));
dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  close();
});
document.addEventListener("keydown", onKey);
document.addEventListener("copy", () => {
  if (window.getSelection().toString().includes(code.textContent)) noteCopied();
});

dialog.removeAttribute("open");
dialog.showModal();

// The back/forward cache must not keep the key.
window.addEventListener("pagehide", () => code.remove());
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.replace(keysUrl);
});
