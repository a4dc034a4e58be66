// Checks the fields of a form before it is sent, by the rules and with the messages that the server gave along,
// and helps with dates, which are UTC. The server checks all of it again.

const localTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const DAY_MS = 24 * 60 * 60 * 1000;

function fault(input) {
  const rules = JSON.parse(input.dataset.rules);
  const text = input.value.trim();
  // What is typed by half into a field of date and time would be sent as nothing.
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

// A message that appears moves what is below, also the button that is just being pressed: it waits for the release.
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
    // When it is left; a message that was there goes as soon as the text is right.
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

function tellLocalTime(output) {
  const input = document.getElementById(output.dataset.localOf);
  const tell = () => {
    const at = Date.parse(`${input.value}Z`);
    output.textContent = Number.isNaN(at) ? "" : `This is ${localTime.format(at)} in your time.`;
  };
  input.addEventListener("input", tell);
  tell();
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
document.querySelectorAll("[data-local-of]").forEach(tellLocalTime);
document.querySelectorAll("[data-presets-of]").forEach(offerPresets);
