// The screens at which each slot had the most weight.

function fillGallery() {
  const kind = data.heads[0].selections[0].signed ? "Factor" : "Slot";
  $("gallery").append(
    ...data.gallery.map((pictures, slot) => {
      const figure = document.createElement("section");
      const title = document.createElement("h3");
      const row = document.createElement("div");
      figure.style.cssText = "all:unset;display:block";
      title.textContent = `${kind} ${slot + 1}`;
      row.append(
        ...pictures.map(({ t, weight, picture }) => {
          const button = document.createElement("button");
          const image = new Image();
          image.src = picture;
          image.alt = `Screen at ${clock(t)}`;
          button.type = "button";
          button.append(image, short(+weight.toFixed(3)));
          button.addEventListener("click", () => {
            go(t);
            const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
            $("video").scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
          });
          return button;
        }),
      );
      figure.append(title, row);
      return figure;
    }),
  );
}
