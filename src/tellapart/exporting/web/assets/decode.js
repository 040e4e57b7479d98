/**
 * A picture file -> its pixels by the decode policy of tellapart.data.decode: upright, RGB, transparent ones over white.
 */

const MAX_PIXELS = 89_000_000;
const MAX_BYTES = 512 * 2 ** 20;

/**
 * Return {height, width, read, close}; read: (left, top, width, height) -> RGBA of that part, opaque.
 *
 * Throws an Error whose message is the end of a sentence, "Cannot read cat.jpg: ...".
 */
export async function decode(blob) {
  if (blob.size === 0) throw new Error("the file is empty");
  if (blob.size > MAX_BYTES) throw new Error("it has more than 512 MB");
  refuseCut(new Uint8Array(await blob.arrayBuffer()));
  const bitmap = await toBitmap(blob);
  const { height, width } = bitmap;
  if (height * width > MAX_PIXELS) {
    bitmap.close();
    throw new Error(`${width} x ${height} pixels are more than the limit of 89 million`);
  }
  return { height, width, read: (...box) => part(bitmap, ...box), close: () => bitmap.close() };
}

async function toBitmap(blob) {
  try {
    return await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("this browser cannot decode it: a damaged file, or none of JPEG, PNG, WebP, BMP and GIF");
  }
}

/** Read a part of a bitmap as it is, unscaled, over white. */
function part(bitmap, left, top, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw new Error("there is not enough memory to decode it");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, width, height).data;
}

function refuseCut(_bytes) {}
