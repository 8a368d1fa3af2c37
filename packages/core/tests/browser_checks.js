// What a page is asked in a real browser: pictures drawn, text legible, headings in order, nothing wider than the page.
() => {
  const channel = (value) => { const v = value / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  // color-mix() computes to color(srgb r g b), everything else to rgb() or rgba().
  const parse = (text) => {
    const n = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
    const rgb = text.startsWith("color(srgb") ? n.slice(0, 3).map((v) => 255 * v) : n.slice(0, 3);
    return [...rgb, n.length > 3 ? n[3] : 1];
  };
  const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] + b[i] * (1 - a[3]));
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const said = (e) => `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""} "${e.textContent.trim().slice(0, 30)}"`;
  for (const details of document.querySelectorAll("details")) details.open = true;

  const pale = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const front = over(parse(element.closest("svg") ? style.fill : style.color), back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) pale.push(`${contrast.toFixed(2)} ${said(element)}`);
  }

  const drawn = (e) => { const box = e.getBoundingClientRect(); return box.width > 2 && box.height > 2; };
  // Something is drawn, and every mark that is used is there.
  const there = (mark) => { const box = mark.getBBox(); return box.width + box.height > 0; };
  const filled = (e) => e.querySelector("path, use") && [...e.querySelectorAll("use")].every(there);
  const ranks = [...document.querySelectorAll("h1,h2,h3,h4")].map((e) => Number(e.tagName[1]));
  return {
    pale: [...new Set(pale)],
    pictures: [...document.images].filter((e) => !(e.complete && e.naturalWidth > 0 && drawn(e))).map((e) => e.alt),
    drawings: [...document.querySelectorAll("svg")].filter((e) => !drawn(e) || !filled(e)).map(said),
    nameless: [...document.querySelectorAll("img, svg[role=img]")]
      .filter((e) => !(e.getAttribute("alt") || e.getAttribute("aria-label") || "").trim()).map(said),
    skipped: ranks.flatMap((rank, i) => (rank > (i ? ranks[i - 1] : 0) + 1 ? [`h${rank} after h${ranks[i - 1] || 0}`] : [])),
    titles: ranks.filter((rank) => rank === 1).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    counts: { images: document.images.length, drawings: document.querySelectorAll("svg").length },
  };
}
