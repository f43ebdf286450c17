const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const font = "system-ui, -apple-system, 'Segoe UI', sans-serif";
  return {
    background: "transparent", font, view: { stroke: null }, padding: 2,
    axis: { domain: false, ticks: false, grid: true, gridColor: colour("--line"), labelColor: colour("--soft"), titleColor: colour("--soft"),
            labelFont: font, titleFont: font, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", labelPadding: 6 },
    axisX: { grid: false }, axisY: { minExtent: 34 }, legend: { labelColor: colour("--soft"), labelFont: font, labelFontSize: 12 },
  };
}

function draw() {
  for (const place of document.querySelectorAll("[data-spec]")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    vegaEmbed(place, spec, {
      actions: false, renderer: place.dataset.renderer, config: theme(), tooltip: { theme: dark.matches ? "dark" : "light" },
    }).catch(console.error);
  }
}

dark.addEventListener("change", draw);
draw();
