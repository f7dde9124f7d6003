// Whoever does not see a page is told what each control is; an id is there once; headings leave out no level.
const faults = [];
const CONTROLS = "a, button, input:not([type=hidden], [hidden]), select, textarea, summary, meter, progress, img, pre[tabindex]";
for (const element of document.querySelectorAll(CONTROLS)) {
  const named = element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim() ||
    element.textContent.trim() || (element.matches("img") && element.hasAttribute("alt"));
  if (!named) faults.push(`no name: ${element.outerHTML.slice(0, 80)}`);
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
faults.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `twice: #${id}`));
for (const element of document.querySelectorAll("[aria-labelledby]")) {
  const id = element.getAttribute("aria-labelledby");
  if (!document.getElementById(id)?.textContent.trim()) faults.push(`nothing is called #${id}`);
}
const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1]));
if (levels.filter((level) => level === 1).length !== 1) faults.push("not exactly one h1");
levels.forEach((level, index) => {
  if (index && level > levels[index - 1] + 1) faults.push(`an h${level} follows an h${levels[index - 1]}`);
});
return faults;
