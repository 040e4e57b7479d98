"""Distillation: teachers, their classes and soft targets, and students that learn from them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import logits
from tellapart.errors import ClassifierFileError, RecipeError, WeightsError
from tellapart.models import create
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.training.distillation import Teacher, matching_columns
from tellapart.training.initialization import load_teacher, weights_digest
from tellapart.training.losses import Loss
from tellapart.training.optimizers import make_optimizer
from tellapart.training.schedules import set_learning_rate

CLASSES = ("cat", "dog", "owl")


def settings(channels=3, size=32, resize="squash"):
    return PreprocessSettings(resize, size, channels, (0.4,) * channels, (0.25,) * channels)


def make_teacher(classes=CLASSES, metadata=None, **values):
    torch.manual_seed(1)
    preprocess = settings(**values)
    architecture = Architecture("small_resnet", len(classes), preprocess.channels)
    return Classifier(
        architecture=architecture,
        network=architecture.build().eval(),
        preprocess=preprocess,
        classes=tuple(classes),
        temperature=1.7,
        metadata=metadata or {},
    )


def recipe(path, **values):
    return Recipe().with_settings(distillation_teacher=str(path), precision="float32", **values)


@pytest.fixture(scope="module")
def pixels(small_images):
    """Color images (20, 32, 32, 3)."""
    return np.stack([np.array(Image.open(path).convert("RGB")) for path in small_images])


def test_soft_targets_are_the_logits_of_the_teacher_in_the_order_of_the_student(tmp_path, pixels):
    teacher = make_teacher()
    teacher.save(tmp_path / "teacher.safetensors")
    loaded = load_teacher(recipe(tmp_path / "teacher.safetensors"), ("owl", "cat", "dog"))
    images = Preprocess(settings()).scale(torch.from_numpy(pixels))
    soft = loaded.soft_targets(images)
    expected = logits(teacher.network, Preprocess(teacher.preprocess), pixels)[:, [2, 0, 1]]
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=1e-4, atol=1e-5)
    assert not soft.requires_grad
    assert soft.dtype == torch.float32


def test_a_run_directory_is_a_teacher_and_its_file_is_in_the_digest_of_the_weights(tmp_path):
    make_teacher().save(tmp_path / "model.safetensors")
    by_folder, by_file = recipe(tmp_path), recipe(tmp_path / "model.safetensors")
    assert load_teacher(by_folder, CLASSES).columns.tolist() == [0, 1, 2]
    digest = weights_digest(by_folder)
    assert len(digest) == 64
    assert weights_digest(by_file) == digest
    make_teacher(size=24).save(tmp_path / "model.safetensors")
    assert weights_digest(by_folder) != digest
    assert weights_digest(Recipe()) == ""
    assert load_teacher(Recipe(), CLASSES) is None


def test_a_missing_file_and_a_file_that_is_no_classifier_are_refused(tmp_path):
    missing = recipe(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError) as error:
        weights_digest(missing)
    assert "none.safetensors" in str(error.value)
    with pytest.raises(ClassifierFileError) as error:
        load_teacher(missing, CLASSES)
    assert "none.safetensors" in str(error.value)
    (tmp_path / "text.safetensors").write_text("no classifier")
    with pytest.raises(ClassifierFileError):
        load_teacher(recipe(tmp_path / "text.safetensors"), CLASSES)


@pytest.mark.parametrize(
    ("student", "teacher", "differences"),
    [("abc", "ab", "c"), ("ab", "abc", "c"), ("ab", "ac", "bc"), ("abcdefgh", "a", "bcdef")],
)
def test_a_teacher_with_other_classes_is_refused_and_they_are_listed(student, teacher, differences):
    with pytest.raises(RecipeError) as error:
        matching_columns(tuple(student), tuple(teacher))
    assert re.findall("'(.)'", str(error.value)) == list(differences)


@pytest.mark.parametrize(
    ("teacher_loss", "student", "is_accepted"),
    [
        ({}, {}, True),
        ({}, {"balanced_sampling": True}, False),
        ({"balanced_sampling": True}, {"class_weight": "balanced"}, False),
        ({"class_weight": "balanced", "logit_adjustment": False}, {"balanced_sampling": True}, True),
        ({"balanced_sampling": True, "logit_adjustment": False}, {}, False),
    ],
)
def test_teacher_and_student_must_predict_for_the_same_class_frequencies(tmp_path, teacher_loss, student, is_accepted):
    path = tmp_path / "teacher.safetensors"
    make_teacher(metadata={"recipe": {"loss": teacher_loss}}).save(path)
    if is_accepted:
        assert load_teacher(recipe(path, **student), CLASSES) is not None
        return
    with pytest.raises(RecipeError) as error:
        load_teacher(recipe(path, **student), CLASSES)
    assert "balanced_sampling" in str(error.value)


@pytest.mark.parametrize("student", [1, 3])
@pytest.mark.parametrize("teacher", [1, 3])
def test_images_are_converted_to_the_channels_of_the_teacher(pixels, student, teacher):
    teacher = make_teacher(channels=teacher)
    images = Preprocess(settings(student)).scale(torch.from_numpy(pixels))
    soft = Teacher(teacher.network, teacher.preprocess, [0, 1, 2], Recipe()).soft_targets(images)
    grey = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None].repeat(3, axis=3)
    converted = grey if student == 1 else pixels
    expected = logits(teacher.network, Preprocess(teacher.preprocess), converted)
    # Gray values are rounded to integers here, but not in the batch.
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=0.02, atol=0.005)


def test_images_are_resized_as_by_the_preprocessing_of_the_teacher(photo):
    teacher = make_teacher(size=24)
    square = np.ascontiguousarray(photo[:60, :60])
    images = Preprocess(settings()).scale(torch.from_numpy(square)[None])
    soft = Teacher(teacher.network, teacher.preprocess, [0, 1, 2], Recipe()).soft_targets(images)
    preprocess = Preprocess(teacher.preprocess)
    expected = logits(teacher.network, preprocess, preprocess.resize(square)[None])
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=0.02, atol=0.005)


def test_the_teacher_is_not_trained(pixels):
    teacher = make_teacher()
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    teacher.network.train()
    teacher = Teacher(teacher.network, teacher.preprocess, [0, 1, 2], Recipe())
    images = Preprocess(settings()).scale(torch.from_numpy(pixels)).requires_grad_()
    soft = teacher.soft_targets(images)
    assert not soft.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    alone = torch.cat([teacher.soft_targets(images[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(alone, soft[:4], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close(pixels):
    teacher = make_teacher()
    images = Preprocess(settings()).scale(torch.from_numpy(pixels))
    exact, rounded = (
        Teacher(teacher.network, teacher.preprocess, [0, 1, 2], Recipe().with_settings(precision=precision))
        for precision in ("float32", "bfloat16")
    )
    difference = exact.soft_targets(images) - rounded.soft_targets(images)
    assert 0 < difference.abs().max() < 0.03


def test_a_student_learns_digits_from_its_teacher_without_labels():
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    truth = torch.from_numpy(labels).long()
    preprocess = PreprocessSettings("squash", 8, 1, (0.5,), (0.5,))

    def fit(recipe, teacher=None):
        torch.manual_seed(0)
        network = create("small_resnet", 10, 1)
        optimizer, loss = make_optimizer(network, recipe, fine_tuning=False), Loss(recipe)
        for step in range(60):
            set_learning_rate(optimizer, "one_cycle", step / 60)
            rows = slice(step * 64 % 1536, step * 64 % 1536 + 64)
            soft = teacher.soft_targets(pixels[rows]) if teacher else None
            # The student has no labels: all of them are 0.
            targets = truth[rows] if teacher is None else torch.zeros_like(truth[rows])
            losses = loss.row_losses(network((pixels[rows] - 0.5) / 0.5), targets, soft)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
        return network.eval()

    teacher = Teacher(fit(Recipe()), preprocess, range(10), Recipe())
    student = fit(Recipe().with_settings(distillation_alpha=1.0), teacher)
    with torch.no_grad():
        predicted = student((pixels[1536:] - 0.5) / 0.5).argmax(dim=1)
    assert (predicted == truth[1536:]).float().mean() > 0.85
