// Values on the wire between a Python test and its Node peer: JSON, and single-key
// objects for what JSON cannot say.
//
//   {"$undefined": true}  {"$nan": true}  {"$infinity": 1 | -1}  {"$bigint": "123"}
//   {"$negativeZero": true}  {"$date": <ms>}

const DECODERS = {
  $undefined: () => undefined,
  $nan: () => NaN,
  $infinity: (sign) => sign * Infinity,
  $bigint: (digits) => BigInt(digits),
  $negativeZero: () => -0,
  $date: (ms) => new Date(ms),
};

/** What a request's JSON means. */
export function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== 'object') return value;
  const keys = Object.keys(value);
  if (keys.length === 1 && Object.hasOwn(DECODERS, keys[0])) {
    return DECODERS[keys[0]](value[keys[0]]);
  }
  return Object.fromEntries(keys.map((key) => [key, decode(value[key])]));
}

/**
 * The JSON form of a result. `undefined` in an object is left out, as JSON does.
 * `isJob` recognises jobs and `describe` gives what is told about one.
 */
export async function encode(value, isJob, describe) {
  const inner = (item) => encode(item, isJob, describe);
  if (typeof value === 'number') return encodeNumber(value);
  if (typeof value === 'bigint') return { $bigint: String(value) };
  if (typeof value === 'function' || typeof value === 'symbol') return String(value);
  if (value === null || typeof value !== 'object') return value;
  if (value instanceof Error) return encodeError(value);
  if (value instanceof Date) return { $date: value.getTime() };
  if (isJob(value)) return inner(await describe(value));
  if (value instanceof Map) return inner(Object.fromEntries(value));
  if (value instanceof Set) return inner([...value]);
  if (Buffer.isBuffer(value)) return { $base64: value.toString('base64') };
  if (Array.isArray(value)) {
    const items = value.map((item) => (item === undefined ? { $undefined: true } : inner(item)));
    return Promise.all(items);
  }
  const entries = Object.entries(value).map(async ([key, item]) => [key, await inner(item)]);
  return Object.fromEntries(await Promise.all(entries));
}

/** An error as {name, message, code}; anything may be thrown in JavaScript. */
export function encodeError(error) {
  if (!(error instanceof Error)) return { name: typeof error, message: String(error) };
  return { name: error.name, message: error.message, code: error.code };
}

function encodeNumber(value) {
  if (Number.isNaN(value)) return { $nan: true };
  if (!Number.isFinite(value)) return { $infinity: Math.sign(value) };
  if (Object.is(value, -0)) return { $negativeZero: true };
  return value;
}
