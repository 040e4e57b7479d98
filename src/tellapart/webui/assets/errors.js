/** Errors with a stable `code`, as in Python; the message is the end of a sentence. */

export class AppError extends Error {
  constructor(code, message, reason = null) {
    super(message);
    this.code = code;
    this.reason = reason; // a stable name of the defect, for an unreadable image
  }
}

/** Return the error for an image that cannot be read. */
export function unreadable(reason, message) {
  return new AppError("unreadable_image", message, reason);
}

/** Return an error as an object that `postMessage` transfers. */
export function serialize({ message, code = "error", reason = null }) {
  return { message, code, reason };
}

/** Return the error in an object of `serialize`. */
export function deserialize({ message, code, reason }) {
  return new AppError(code, message, reason);
}
