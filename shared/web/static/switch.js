// The switches of keys: asks before one is switched off, turns it at once for the eyes, and back with a message if
// it failed. The form is sent as it would be without script, and the answer is a page whose switch takes the place
// of the one that was pressed: so it says what is so, and not what is hoped for.

const asking = document.querySelector("#switching-off");
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

function tell(message) {
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
    throw new Error("The server does not answer. Look at your connection and try again.");
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
  tell("");
  form.dataset.turning = on ? "on" : "off";
  form.setAttribute("aria-busy", "true");
  try {
    const now = document.importNode(await send(form, fields), true);
    if (form.elements.back.value === "details") return location.reload(); // for its lifecycle has one more
    now.elements.back.value = form.elements.back.value;
    form.replaceWith(now);
    listen(now);
    now.querySelector("[role=switch]").focus();
  } catch (error) {
    delete form.dataset.turning;
    form.removeAttribute("aria-busy");
    tell(`${form.dataset.name} is still switched ${on ? "off" : "on"}. ${error.message}`);
  }
}

function listen(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") !== "true") flip(form);
  });
}

document.querySelectorAll("form.status").forEach(listen);
