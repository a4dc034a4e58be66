// Validates a form before it is sent, with the rules and messages from the server, and helps with dates, which are
// in UTC. The server validates everything again.

const localTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const DAY_MS = 24 * 60 * 60 * 1000;

function fault(input) {
  const rules = JSON.parse(input.dataset.rules);
  const text = input.value.trim();
  // A half-filled date and time would be sent as an empty value.
  if (input.validity.badInput) return rules.unfinished;
  if (!text) return rules.empty ?? "";
  if ([...text].length > rules.most) return rules.long;
  if (rules.past && Date.parse(`${text}Z`) <= Date.now()) return rules.past;
  return rules.good ? badItem(text.split(/\s+/), rules) : "";
}

function badItem(items, { good, own, bad }) {
  const pattern = new RegExp(good, "u");
  const item = items.find((one) => !one.startsWith(own) && !pattern.test(one));
  return item === undefined ? "" : bad.replace("{}", () => item);
}

function check(input) {
  const message = fault(input);
  const place = document.getElementById(`${input.id}-error`);
  place.querySelector("span").textContent = message;
  place.hidden = !message;
  if (message) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
  return !message;
}

// A new message moves what is below it, even a button that is being pressed, so it waits for the release.
let isPressed = false;
document.addEventListener("pointerdown", () => { isPressed = true; });
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { isPressed = false; });

function onceReleased(act) {
  if (isPressed) document.addEventListener("pointerup", () => setTimeout(act), { once: true });
  else act();
}

function checkForm(form) {
  const inputs = [...form.querySelectorAll("[data-rules]")];
  form.noValidate = true;
  for (const input of inputs) {
    // On leaving the field; a message disappears as soon as the value is valid.
    input.addEventListener("change", () => onceReleased(() => check(input)));
    input.addEventListener("input", () => input.ariaInvalid === "true" && check(input));
  }
  form.addEventListener("submit", (event) => {
    const bad = inputs.filter((input) => !check(input));
    if (!bad.length) return;
    event.preventDefault();
    const more = bad[0].closest("details");
    if (more) more.open = true;
    bad[0].focus();
  });
}

function showLocalTime(output) {
  const input = document.getElementById(output.dataset.localOf);
  const update = () => {
    const at = Date.parse(`${input.value}Z`);
    output.textContent = Number.isNaN(at) ? "" : `This is ${localTime.format(at)} in your time.`;
  };
  input.addEventListener("input", update);
  update();
}

function offerPresets(group) {
  const input = document.getElementById(group.dataset.presetsOf);
  group.hidden = false;
  group.addEventListener("click", ({ target }) => {
    const { days } = target.dataset;
    if (days === undefined) return;
    const end = new Date(Date.now() + days * DAY_MS).toISOString();
    input.value = days ? end.slice(0, "2026-11-23T18:59".length) : "";
    input.dispatchEvent(new Event("input"));
    input.dispatchEvent(new Event("change"));
  });
}

document.querySelectorAll("form[data-check]").forEach(checkForm);
document.querySelectorAll("[data-local-of]").forEach(showLocalTime);
document.querySelectorAll("[data-presets-of]").forEach(offerPresets);
