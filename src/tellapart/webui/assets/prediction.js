/** The prediction for an image, as `Prediction.to_json` in Python: see tellapart.inference.prediction and uncertainty.conformal. */

const TOP = 5;

/**
 * Return {label, index, probability, top, prediction_set, in_distribution}; the last two are null without calibration.
 *
 * probabilities: Float32Array, one per class. distance: of the OOD detector, or null. classifier: classifier.json.
 */
export function toPrediction(probabilities, distance, { classes, conformal, ood }) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]); // a stable sort
  const top = order.slice(0, TOP).map((k) => [classes[k], probabilities[k]]);
  return {
    label: top[0][0],
    index: order[0],
    probability: top[0][1],
    top,
    prediction_set: conformal && predictionSet(probabilities, order, conformal).map((k) => classes[k]),
    // numpy compares in single precision, too
    in_distribution: ood && distance <= Math.fround(ood.threshold),
  };
}

/** Return the classes whose score is at most their threshold, most probable first; a null threshold is infinite. */
function predictionSet(probabilities, order, { thresholds, penalty, free_ranks: freeRanks }) {
  let cumulative = 0;
  return order.filter((k, rank) => {
    cumulative += probabilities[k];
    const score = cumulative - probabilities[k] + penalty * Math.max(0, rank + 1 - freeRanks);
    return rank === 0 || score <= (thresholds[k] ?? Infinity);
  });
}
