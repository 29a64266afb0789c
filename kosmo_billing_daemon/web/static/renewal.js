// Loads the page again when something about its user has changed: a payment arrived.
const place = document.querySelector("[data-events]");
if (place) {
  const stream = new EventSource(place.dataset.events);
  stream.addEventListener("changed", () => {
    stream.close();
    location.reload();
  });
}
