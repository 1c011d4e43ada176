"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // "var(--name)" anywhere in a chart becomes the page's colour of that name
  const coloured = (value, styles) => {
    if (typeof value === "string" && value.startsWith("var(--"))
      return styles.getPropertyValue(value.slice(4, -1)).trim();
    if (Array.isArray(value)) return value.map((item) => coloured(item, styles));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, styles)]));
    return value;
  };

  const axis = (own) => ({
    automargin: true, gridcolor: "var(--rule)", linecolor: "var(--rule)",
    zeroline: false, ticks: "outside", tickcolor: "var(--rule)", ...own,
  });

  const draw = () => {
    const styles = getComputedStyle(document.documentElement);
    for (const [name, chart] of Object.entries(charts)) {
      const layout = {
        margin: { l: 8, r: 8, t: 24, b: 8 },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "var(--ink)" },
        hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--rule)", font: { color: "var(--ink)" } },
        ...chart.layout, xaxis: axis(chart.layout.xaxis), yaxis: axis(chart.layout.yaxis),
      };
      Plotly.react(
        "chart-" + name, coloured(chart.data, styles), coloured(layout, styles),
        { responsive: true, displayModeBar: false },
      );
    }
  };

  draw();
  dark.addEventListener("change", draw);
})();
