// The switches of keys: asks for confirmation before a key is disabled, moves the switch optimistically, and moves it
// back with a message if the request fails. The form is sent as it would be without JavaScript. The switch in the
// response replaces the one that was clicked, so it always shows the real state.

const asking = document.querySelector("#disable-key");
const failed = document.querySelector("#switch-failed");

function asked(form) {
  asking.querySelector("[data-name]").textContent = form.dataset.name;
  asking.querySelector("form").reset();
  asking.returnValue = "";
  asking.showModal();
  return new Promise((answer) => {
    asking.addEventListener("close", () => {
      const reason = asking.querySelector("[name=reason]").value;
      answer(asking.returnValue === "off" ? reason : null);
    }, { once: true });
  });
}

function showFailure(message) {
  failed.replaceChildren();
  if (!message) return;
  const notice = document.createElement("p");
  notice.className = "notice error";
  notice.textContent = message;
  failed.append(notice);
}

const parsed = (text) => new DOMParser().parseFromString(text, "text/html");

async function send(form, fields) {
  let answer;
  try {
    answer = await fetch(form.action, { method: "POST", body: fields, signal: AbortSignal.timeout(15_000) });
  } catch {
    throw new Error("The server didn't respond. Check your connection and try again.");
  }
  const page = parsed(await answer.text());
  const now = page.querySelector(`form.status[data-key="${CSS.escape(form.dataset.key)}"]`);
  if (answer.ok && now) return now;
  if (answer.redirected && answer.ok) location.reload(); // to sign in again
  throw new Error(page.querySelector("#main .lead, #main .field-error")?.textContent.trim() || "Reload the page and try again.");
}

async function flip(form) {
  const on = form.elements.enabled.value === "true";
  const fields = new FormData(form);
  if (!on) {
    const reason = await asked(form);
    if (reason === null) return;
    fields.set("reason", reason);
  }
  fields.set("back", "details");
  showFailure("");
  form.dataset.turning = on ? "on" : "off";
  form.setAttribute("aria-busy", "true");
  try {
    const now = document.importNode(await send(form, fields), true);
    if (form.elements.back.value === "details") return location.reload(); // to show the new event in its lifecycle
    now.elements.back.value = form.elements.back.value;
    form.replaceWith(now);
    listen(now);
    now.querySelector("[role=switch]").focus();
  } catch (error) {
    delete form.dataset.turning;
    form.removeAttribute("aria-busy");
    showFailure(`${form.dataset.name} is still ${on ? "disabled" : "enabled"}. ${error.message}`);
  }
}

function listen(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") !== "true") flip(form);
  });
}

document.querySelectorAll("form.status").forEach(listen);
