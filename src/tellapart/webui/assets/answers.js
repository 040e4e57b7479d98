/** What is said of a picture, as tellapart.prediction and tellapart.confidence.sets say it in Python. */

const TOP = 5;
const PENALTY = 0.01; // a class after the first five costs as much as 1 % of probability
const FREE_RANKS = 5;

/**
 * Return {label, probability, top, set, familiar}.
 *
 * probabilities: Float32Array, one a class. distance: from the training pictures, or null. about: classifier.json. top:
 * the best few as [label, probability]. set and familiar are null where the classifier does not know them.
 */
export function answerOf(probabilities, distance, about) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]); // a stable sort
  const top = order.slice(0, TOP).map((k) => [about.classes[k], probabilities[k]]);
  return {
    label: top[0][0],
    probability: top[0][1],
    top,
    set: about.sets && members(probabilities, order, about.sets.limits).map((k) => about.classes[k]),
    // The limit in single precision, as numpy compares it with the distance.
    familiar: about.familiarity && distance <= Math.fround(about.familiarity.limit),
  };
}

/** Return the classes, most probable first, whose score is within their limit; no limit where it is null. */
function members(probabilities, order, limits) {
  let sum = 0;
  return order.filter((k, rank) => {
    sum += probabilities[k];
    const score = sum - probabilities[k] + PENALTY * Math.max(0, rank + 1 - FREE_RANKS);
    return rank === 0 || score <= (limits[k] ?? Infinity);
  });
}
