"""The Keras side of train_tutorial.py: reads one command a line, answers one JSON object a line.

Runs in the peer's own environment; the data come as a .npz file: x_train, y_train, x_test, y_test, images in 0..1.
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
    """Answer commands until the input ends: `fit EPOCHS` goes on training, `new SEED` begins anew."""
    data = np.load(sys.argv[1])
    x, y = data["x_train"], data["y_train"]
    model = tutorial(x.shape[1:], sys.argv[2])
    for line in sys.stdin:
        command, value = line.split()
        answer = {}
        if command == "new":
            keras.utils.set_random_seed(int(value))
            model = tutorial(x.shape[1:], sys.argv[2])
            model.train_on_batch(x[:64], y[:64])  # traces and compiles, outside the time that is taken
        elif command == "fit":
            began = time.perf_counter()
            model.fit(x, y, batch_size=64, epochs=int(value), verbose=0)
            answer["seconds"] = time.perf_counter() - began
        elif command == "test":
            answer["accuracy"] = float(model.evaluate(data["x_test"], data["y_test"], verbose=0)[1])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
