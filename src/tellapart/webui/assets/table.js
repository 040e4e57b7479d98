/** Predictions as a CSV table (RFC 4180), with the columns of `tellapart predict --csv`. */

const COLUMNS = ["path", "label", "index", "probability", "prediction_set", "in_distribution", "error", "code"];

/** Return the text for rows of [path, result]; a result is a prediction, or {error, code}. */
export function toCsv(rows) {
  const lines = rows.map(([path, result]) => {
    const row = { path, ...result, prediction_set: result.prediction_set?.join(" | ") };
    return COLUMNS.map((column) => toCell(row[column])).join(",");
  });
  return `${[COLUMNS.join(","), ...lines].join("\r\n")}\r\n`;
}

/** Return a cell; text that starts like a formula gets an apostrophe, so that no spreadsheet evaluates it. */
function toCell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
