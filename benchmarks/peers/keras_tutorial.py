"""The Keras side of train_tutorial.py: reads one command per line, prints one JSON object per line.

It runs in an environment with Keras. Argument: a .npz file with x_train, y_train, x_test, y_test, images in 0..1.
"""

import json
import sys
import time

import keras
import numpy as np


def tutorial(shape: tuple[int, ...], padding: str) -> keras.Model:
    """TensorFlow's tutorial "Convolutional Neural Network (CNN)", for images of this shape and 10 classes."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 3, padding=padding, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding=padding, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding=padding, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def main() -> None:
    """Run commands until the input ends: `new SEED` creates a model, `fit EPOCHS` trains it, `test` evaluates."""
    data = np.load(sys.argv[1])
    x, y = data["x_train"], data["y_train"]
    model = tutorial(x.shape[1:], sys.argv[2])
    for line in sys.stdin:
        command, value = line.split()
        result = {}
        if command == "new":
            keras.utils.set_random_seed(int(value))
            model = tutorial(x.shape[1:], sys.argv[2])
            model.train_on_batch(x[:64], y[:64])  # traces and compiles, outside the timed section
        elif command == "fit":
            start = time.perf_counter()
            model.fit(x, y, batch_size=64, epochs=int(value), verbose=0)
            result["seconds"] = time.perf_counter() - start
        elif command == "test":
            result["accuracy"] = float(model.evaluate(data["x_test"], data["y_test"], verbose=0)[1])
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
