"""How the folders of well-known image datasets load: as their authors meant, or refused with a reason.

    python benchmarks/layouts.py

The folders are made as the datasets are distributed, with a few empty files in each. Prints one JSON object per
dataset: the number of classes and of images by split, or the reason of the refusal, and whether that is expected.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tellapart.data.dataset import SPLITS
from tellapart.data.sources import load_dataset
from tellapart.errors import SourceError


class Layout(NamedTuple):
    """A dataset as distributed.

    folders: with three images each. files: further ones. classes: their number; 0 if the layout does not say what
    is a class. splits: given ones. A layout may always be refused, but not be taken for another.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    classes: int
    splits: tuple[str, ...] = ()


def tree(folders: str, classes: str) -> tuple[str, ...]:
    """Return a folder for each class in each of some folders."""
    return tuple(f"{folder}/{name}" for folder in folders.split() for name in classes.split(","))


LAYOUTS = {
    "Intel Image Classification": Layout(
        (*tree("seg_train/seg_train seg_test/seg_test", "buildings,forest,sea"), "seg_pred/seg_pred"),
        (),
        3,
        ("train", "test"),
    ),
    "Cat and Dog": Layout(
        tree("training_set/training_set test_set/test_set", "cats,dogs"),
        ("training_set/training_set/cats/_DS_Store", "test_set/test_set/cats/_DS_Store"),
        2,
        ("train", "test"),
    ),
    "Fruits-360": Layout(
        (*tree("fruits-360/Training fruits-360/Test", "Apple Braeburn,Banana,Kiwi"), "fruits-360/test-multiple_fruits"),
        ("fruits-360/LICENSE", "fruits-360/readme.md", "fruits-360/papers/paper.pdf"),
        3,
        ("train", "test"),
    ),
    "Chest X-Ray Images": Layout(
        tree("chest_xray/train chest_xray/val chest_xray/test", "NORMAL,PNEUMONIA"),
        ("chest_xray/__MACOSX/chest_xray/._train",),
        2,
        ("train", "validation", "test"),
    ),
    "Flower photos of TensorFlow": Layout(
        tree("flower_photos", "daisy,roses,tulips"), ("flower_photos/LICENSE.txt",), 3
    ),
    "Animals-10": Layout(tree("raw-img", "cane,gatto,cavallo"), ("translate.py",), 3),
    "Food-101": Layout(
        tree("food-101/images", "apple_pie,pizza,waffles"), ("food-101/meta/classes.txt", "food-101/README.txt"), 3
    ),
    "Caltech-101": Layout(
        tree("caltech-101/101_ObjectCategories", "accordion,airplanes,anchor"),
        tuple(f"caltech-101/Annotations/{name}/annotation_0001.mat" for name in ("accordion", "Airplanes_Side_2")),
        3,
    ),
    "Imagenette": Layout(
        tree("imagenette2/train imagenette2/val", "n01440764,n02102040"),
        ("imagenette2/noisy_imagenette.csv",),
        2,
        ("train", "validation"),
    ),
    "Stanford Dogs": Layout(
        tree("images/Images", "n02085620-Chihuahua,n02085782-Japanese_spaniel"),
        tuple(f"annotations/Annotation/{name}/n02085620_10074" for name in ("n02085620-Chihuahua",)),
        2,
    ),
    "PlantVillage": Layout(tree("color grayscale segmented", "Apple___scab,Corn___rust"), (), 0),
    "Brain Tumor MRI": Layout(tree("Training Testing", "glioma,meningioma,notumor"), (), 3, ("train", "test")),
    "EuroSAT": Layout(tree("2750", "AnnualCrop,Forest,River"), (), 3),
    "Hymenoptera": Layout(
        tree("hymenoptera_data/train hymenoptera_data/val", "ants,bees"), (), 2, ("train", "validation")
    ),
    "Dogs vs. Cats": Layout(("train", "test1"), ("sampleSubmission.csv",), 0),
    "ASL Alphabet": Layout(
        (*tree("asl_alphabet_train/asl_alphabet_train", "A,B,space"), "asl_alphabet_test/asl_alphabet_test"), (), 0
    ),
}


def main() -> None:
    """Make and load each layout."""
    expected = 0
    for title, layout in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            for directory in layout.folders:
                Path(folder, directory).mkdir(parents=True)
                for number in range(3):
                    Path(folder, directory, f"{number}.jpg").touch()
            for file in layout.files:
                Path(folder, file).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, file).touch()
            try:
                dataset = load_dataset(folder)
            except SourceError as error:
                is_expected, found = True, {"refused": str(error).replace(folder, "DATA")}
            else:
                images = Counter(SPLITS[split] if split >= 0 else "all" for split in dataset.given_split.tolist())
                is_expected = len(dataset.classes) == layout.classes and set(images) == set(layout.splits or ("all",))
                found = {"classes": len(dataset.classes), "images": images}
        expected += is_expected
        print(json.dumps({"dataset": title, "as expected": is_expected} | found))
    print(json.dumps({"datasets": len(LAYOUTS), "as expected": expected}))


if __name__ == "__main__":
    main()
