// WCAG 2, AA: 4.5 to 1 for text, 3 to 1 for large text and for the edges of fields. What is disabled may be paler.
const parse = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const over = (top, under) => [0, 1, 2].map((i) => top[i] * (top[3] ?? 1) + under[i] * (1 - (top[3] ?? 1)));
const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const light = (color) => {
  const [red, green, blue] = color.map((value) => linear(value / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ratio = (one, other) => {
  const [more, less] = [light(one), light(other)].sort((a, b) => b - a);
  return (more + 0.05) / (less + 0.05);
};
const behind = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) layers.push(getComputedStyle(each).backgroundColor);
  return layers.reverse().reduce((under, top) => over(parse(top), under), [255, 255, 255]);
};

const faults = [];
let looked = 0;
const look = (element, color, ground, least, what) => {
  looked += 1;
  const got = ratio(over(parse(color), ground), ground);
  if (got < least) faults.push(`${what} ${element.tagName.toLowerCase()}.${element.className}: ${got.toFixed(2)}`);
};
for (const element of document.body.querySelectorAll("*")) {
  if (!element.checkVisibility({ visibilityProperty: true }) || element.disabled) continue;
  if (element.closest("noscript, svg, .skip")) continue;
  const style = getComputedStyle(element);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (hasText) look(element, style.color, behind(element), least, "text of");
  if (element.matches("input:not([type=hidden], [type=checkbox]), select, textarea")) {
    look(element, style.color, behind(element), 4.5, "value of");
    look(element, style.borderTopColor, behind(element.parentElement), 3, "edge of");
    const example = getComputedStyle(element, "::placeholder").color;
    if (element.placeholder) look(element, example, behind(element), 4.5, "example of");
  }
}
return looked > 5 ? faults : ["there was nothing to look at"];
