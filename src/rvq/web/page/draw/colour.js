// Colours of the page, for canvases. A layer has one colour everywhere, from coarse to fine.

/** The layer's colour, from deep blue (coarse) to amber (fine), as sRGB 0 to 255. */
export function layerColour(layer, n, lift = 0) {
  const share = n > 1 ? layer / (n - 1) : 0;
  return oklch(0.5 + 0.3 * share + lift, 0.17, 275 + 155 * share);
}

export const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

/** A colour of the style sheet as it is now, in light or dark. */
export function themeColour(name) {
  const probe = document.getElementById("probe");
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** OKLCH (Ottosson 2020) to sRGB. */
export function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((value) => {
    const clipped = Math.max(0, Math.min(1, value));
    const gamma = clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055;
    return Math.round(255 * gamma);
  });
}

/** 256 steps from night to light, for spectrograms, opaque. */
export const GLOW = Array.from({ length: 256 }, (_, i) => {
  const x = i / 255;
  const chroma = 0.03 + 0.17 * Math.sin(Math.PI * Math.min(1, x * 1.05));
  return Uint8ClampedArray.of(...oklch(0.13 + 0.83 * x, chroma, 270 + 175 * x ** 0.8), 255);
});
