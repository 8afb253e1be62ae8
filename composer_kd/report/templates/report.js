const plots = JSON.parse(document.getElementById('plots').textContent);
const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ['lasso2d', 'select2d']};
for (const plot of plots) {
  const place = document.getElementById(plot.id);
  const file = {format: 'png', filename: plot.id, scale: 2};
  Plotly.newPlot(place, plot.data, plot.layout, {...config, toImageButtonOptions: file});
}
// Paper is narrower than a screen, and a drawn plot does not follow it by itself.
const fit = () => {
  for (const plot of plots) {
    const place = document.getElementById(plot.id);
    Plotly.relayout(place, {width: place.clientWidth, height: place.clientHeight});
  }
};
const free = () => {
  for (const plot of plots) Plotly.relayout(plot.id, {width: null, height: null, autosize: true});
};
matchMedia('print').addEventListener('change', event => event.matches ? fit() : free());
