"use strict";
// Sorting, filter and slider. Without this script the page has all cases, and slices as a montage.

const table = document.getElementById("table");
const body = table.tBodies[0];
const sections = document.getElementById("sections");
const modality = document.getElementById("modality");
const sectionOf = row => document.getElementById("case-" + row.dataset.case);

function sortBy(column, isNumber, descending) {
  const value = row => row.cells[column].dataset.value;
  const compare = (a, b) => isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // what is not known comes last
    return descending ? compare(y, x) : compare(x, y);
  });
  body.append(...rows);
  sections.append(...rows.map(sectionOf));
}

[...table.tHead.rows[0].cells].forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(column, heading.classList.contains("number"), descending);
  });
});

function filter() {
  let count = 0;
  for (const row of body.rows) {
    const hidden = modality.value !== "" && row.dataset.modality !== modality.value;
    row.hidden = sectionOf(row).hidden = hidden;
    count += !hidden;
  }
  document.getElementById("count").textContent = `${count} of ${body.rows.length} cases`;
}
modality.addEventListener("change", filter);
for (const part of document.querySelectorAll(".script")) part.hidden = false;
filter();  // a reload keeps what was chosen

function addSlider(slices) {
  const figures = [...slices.querySelectorAll("figure")];
  const stepper = document.createElement("div");
  stepper.className = "stepper";
  stepper.innerHTML = '<label>Slice <input type="range" min="0" step="1"></label><output></output>'
    + '<label><input type="checkbox"> all slices</label>';
  const [range, all] = stepper.querySelectorAll("input");
  range.max = figures.length - 1;
  range.value = slices.dataset.middle;
  const show = () => {
    figures.forEach((figure, i) => figure.classList.toggle("shown", i === Number(range.value)));
    const name = figures[range.value].querySelector("figcaption").textContent;
    range.setAttribute("aria-valuetext", name);
    stepper.querySelector("output").textContent = `${name} (${Number(range.value) + 1} of ${figures.length} shown)`;
    slices.classList.toggle("one", !all.checked);
    range.disabled = all.checked;
  };
  range.addEventListener("input", show);
  all.addEventListener("change", show);
  show();
  slices.closest(".views").before(stepper);
}
document.querySelectorAll(".slices").forEach(addSlider);
