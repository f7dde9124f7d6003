// Nothing sticks out of the page or out of its card, and nothing is cut off.
const width = document.documentElement.clientWidth;
const whole = document.documentElement.scrollWidth;
const faults = whole > width ? [`the page is ${whole} wide`] : [];
const name = ({ tagName, className, textContent }) => `${tagName}.${className} "${textContent.trim().slice(0, 30)}"`;
for (const element of document.body.querySelectorAll("*")) {
  if (!element.checkVisibility() || element.matches(".skip, thead, thead *, svg *, option, meter, progress")) continue;
  const box = element.getBoundingClientRect();
  if (!box.width) continue;
  if (box.right > width + 1 || box.left < -1) faults.push(`${name(element)} reaches from ${box.left} to ${box.right}`);
  const card = element.closest(".card, table, .jobs li");
  if (card && box.right > card.getBoundingClientRect().right + 1) faults.push(`${name(element)} leaves its card`);
  const isCut = getComputedStyle(element).overflowX === "hidden" && element.scrollWidth > element.clientWidth + 1;
  if (isCut) faults.push(`${name(element)} is cut off`);
}
return faults;
