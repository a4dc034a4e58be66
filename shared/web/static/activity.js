// Loads the chart behind the link into the page of entries, and selects a time range by dragging.
// Without JavaScript the link opens the chart's own page, whose bars and table rows link to their entries.

const section = document.getElementById("activity");

async function loadChart() {
  const answer = await fetch(section.dataset.src, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const chart = page.getElementById("activity");
  if (!chart) return;
  section.replaceChildren(...chart.childNodes);
  enableSelection(section.querySelector(".activity"));
}

// A time in UTC, as the filter's fields take it.
function fieldValue(ms) {
  return new Date(ms).toISOString().replace("Z", "").replace(".000", "");
}

function enableSelection(chart) {
  if (!chart) return;
  const { since, width, bars } = chart.dataset;
  const mark = document.createElement("div");
  mark.className = "activity-mark";
  mark.hidden = true;
  chart.append(mark);
  let from = null;

  function barAt(event) {
    const box = chart.getBoundingClientRect();
    const bar = Math.floor(((event.clientX - box.left) / box.width) * bars);
    return Math.min(Math.max(bar, 0), bars - 1);
  }

  function ends(event) {
    const to = barAt(event);
    return [Math.min(from, to), Math.max(from, to) + 1];
  }

  function draw(event) {
    if (from === null) return;
    const [first, last] = ends(event);
    mark.hidden = last - first < 2;
    mark.style.left = `${(100 * first) / bars}%`;
    mark.style.width = `${(100 * (last - first)) / bars}%`;
  }

  function select(event) {
    if (from === null) return;
    const [first, last] = ends(event);
    from = null;
    if (last - first < 2) return; // a click on one bar follows its link
    const target = new URL(section.dataset.src ?? location.href, location.href);
    target.pathname = location.pathname;
    target.searchParams.set("since", fieldValue(Number(since) + first * width));
    target.searchParams.set("until", fieldValue(Number(since) + last * width));
    location.assign(target);
  }

  chart.addEventListener("dragstart", (event) => event.preventDefault());
  chart.addEventListener("pointerdown", (event) => {
    if (event.button === 0) from = barAt(event);
  });
  document.addEventListener("pointermove", draw);
  document.addEventListener("pointerup", select);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      from = null;
      mark.hidden = true;
    }
  });
}

if (section?.dataset.src) loadChart();
else enableSelection(section?.querySelector(".activity"));
