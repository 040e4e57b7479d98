/** The answers as a table in CSV (RFC 4180). */

/** Return the text for rows of [name, answer]; an answer is {label, probability, top, set, familiar} or {error}. */
export function table(rows) {
  const head = ["path", "label", "probability", "set", "familiar", "error"];
  const lines = rows.map(([name, { label, probability, set, familiar, error }]) =>
    [name, label, probability, set?.join(" | "), familiar, error].map(cell).join(","),
  );
  return `${[head.join(","), ...lines].join("\r\n")}\r\n`;
}

/** Text that begins like a formula gets an apostrophe before it, since spreadsheets would compute it. */
function cell(value) {
  const text = String(value ?? "");
  const plain = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
