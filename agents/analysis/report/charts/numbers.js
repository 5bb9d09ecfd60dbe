// How numbers are written: a minus sign, separators, few digits, and ties rounded as Python does.

const rounded = (x, digits) =>
  x.toLocaleString("en", { roundingMode: "halfEven", ...digits }).replace("-", "−");
const number = (x, digits = 0) =>
  rounded(x, { minimumFractionDigits: digits, maximumFractionDigits: digits });
// As `format_score` does: whole numbers as they are, others with about three digits.
const score = (x) => {
  if (Number.isInteger(x) || Math.abs(x) >= 100) {
    return number(x, Number.isInteger(x) || Math.abs(x) >= 10000 ? 0 : 1);
  }
  return rounded(x, { maximumSignificantDigits: 3 });
};
// For axes and legends.
const short = (x) =>
  (Math.abs(x) >= 1e6
    ? `${+(x / 1e6).toFixed(2)} M`
    : Math.abs(x) >= 1e3
      ? `${+(x / 1e3).toFixed(1)} k`
      : `${+x.toFixed(4)}`
  ).replace("-", "−");
