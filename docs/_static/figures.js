/* Figures link to their files: on a narrow screen their text is too small. */
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll(".bd-article img")) {
    if (image.closest("a, .sphx-glr-thumbnails")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.title = "open the figure in full size";
    image.replaceWith(link);
    link.append(image);
  }
});
