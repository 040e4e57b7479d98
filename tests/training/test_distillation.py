"""Teachers: their classes by name, the pictures as the student sees them, and students that learn from them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from tellapart.classifier.classifier import Architecture, Classifier
from tellapart.classifier.forward import logits
from tellapart.errors import BadClassifierFile, BadRecipe, BadWeights
from tellapart.models import create
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.recipe import Recipe, TrainingRecipe
from tellapart.training.distillation import Teacher, matching_columns
from tellapart.training.initialization import teacher_of, weights_digest
from tellapart.training.losses import Loss
from tellapart.training.optimizers import make_optimizer
from tellapart.training.schedules import set_rate

CLASSES = ("cat", "dog", "owl")


def settings(channels=3, size=32, resize="squash"):
    return PreprocessSettings(resize, size, channels, (0.4,) * channels, (0.25,) * channels)


def classifier(classes=CLASSES, facts=None, **values):
    torch.manual_seed(1)
    chosen = settings(**values)
    architecture = Architecture("small_resnet", len(classes), chosen.channels)
    return Classifier(architecture, architecture.build().eval(), chosen, tuple(classes), 1.7, facts=facts or {})


def recipe(path, **values):
    return Recipe().with_values(training__teacher=str(path), training__precision="float32", **values)


@pytest.fixture(scope="module")
def pixels(small_pictures):
    """Colour pictures (20, 32, 32, 3)."""
    return np.stack([np.array(Image.open(path).convert("RGB")) for path in small_pictures])


def test_soft_targets_are_the_teachers_own_logits_in_the_students_order(tmp_path, pixels):
    teacher = classifier()
    teacher.save(tmp_path / "teacher.safetensors")
    found = teacher_of(recipe(tmp_path / "teacher.safetensors"), ("owl", "cat", "dog"))
    images = Preprocess(settings()).scale(torch.from_numpy(pixels))
    soft = found.soft_targets(images)
    expected = logits(teacher.network, Preprocess(teacher.preprocess), pixels)[:, [2, 0, 1]]
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=1e-4, atol=1e-5)
    assert not soft.requires_grad
    assert soft.dtype == torch.float32


def test_a_run_is_a_teacher_too_and_its_file_is_part_of_what_a_run_is(tmp_path):
    classifier().save(tmp_path / "model.safetensors")
    by_folder, by_file = recipe(tmp_path), recipe(tmp_path / "model.safetensors")
    assert teacher_of(by_folder, CLASSES).columns.tolist() == [0, 1, 2]
    digest = weights_digest(by_folder)
    assert len(digest) == 64
    assert weights_digest(by_file) == digest
    classifier(size=24).save(tmp_path / "model.safetensors")
    assert weights_digest(by_folder) != digest
    assert weights_digest(Recipe()) == ""
    assert teacher_of(Recipe(), CLASSES) is None


def test_a_teacher_that_is_not_there_or_is_none_is_refused(tmp_path):
    missing = recipe(tmp_path / "none.safetensors")
    with pytest.raises(BadWeights, match=r"none\.safetensors"):
        weights_digest(missing)
    with pytest.raises(BadClassifierFile, match=r"none\.safetensors"):
        teacher_of(missing, CLASSES)
    (tmp_path / "text.safetensors").write_text("no classifier")
    with pytest.raises(BadClassifierFile, match="not a classifier file"):
        teacher_of(recipe(tmp_path / "text.safetensors"), CLASSES)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("abc", "ab", "it lacks 'c'."),
        ("ab", "abc", "it knows 'c' besides."),
        ("ab", "ac", "it lacks 'b' and knows 'c' besides."),
        ("abcdefgh", "a", "it lacks 'b', 'c', 'd', 'e', 'f' and 2 more."),
    ],
)
def test_other_classes_are_refused_in_one_sentence_that_lists_them(student, teacher, message):
    with pytest.raises(BadRecipe, match="same classes") as error:
        matching_columns(tuple(student), tuple(teacher))
    assert str(error.value).endswith(message)


@pytest.mark.parametrize(
    ("training", "balance", "fits"),
    [
        ({}, "none", True),
        ({}, "sample", False),
        ({"class_balance": "sample"}, "weight", False),
        ({"class_balance": "weight", "prior_correction": False}, "sample", True),
        ({"class_balance": "sample", "prior_correction": False}, "none", False),
    ],
)
def test_teacher_and_student_learn_the_same_frequencies_of_classes(tmp_path, training, balance, fits):
    classifier(facts={"recipe": {"training": training}}).save(tmp_path / "t.safetensors")
    told = recipe(tmp_path / "t.safetensors", training__class_balance=balance)
    if fits:
        assert teacher_of(told, CLASSES) is not None
        return
    with pytest.raises(BadRecipe, match=f"training.class_balance=.*, not {balance}"):
        teacher_of(told, CLASSES)


@pytest.mark.parametrize("student", [1, 3])
@pytest.mark.parametrize("teacher", [1, 3])
def test_grey_and_colour_are_brought_to_the_teachers(pixels, student, teacher):
    taught = classifier(channels=teacher)
    images = Preprocess(settings(student)).scale(torch.from_numpy(pixels))
    soft = Teacher(taught.network, taught.preprocess, [0, 1, 2], TrainingRecipe()).soft_targets(images)
    grey = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None].repeat(3, axis=3)
    seen = grey if student == 1 else pixels
    expected = logits(taught.network, Preprocess(taught.preprocess), seen)
    # Grey is rounded to whole values here and not in the batch.
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=0.02, atol=0.005)


def test_another_size_is_resampled_as_the_teachers_preprocess_does(photo):
    taught = classifier(size=24)
    square = np.ascontiguousarray(photo[:60, :60])
    images = Preprocess(settings()).scale(torch.from_numpy(square)[None])
    soft = Teacher(taught.network, taught.preprocess, [0, 1, 2], TrainingRecipe()).soft_targets(images)
    preprocess = Preprocess(taught.preprocess)
    expected = logits(taught.network, preprocess, preprocess.resize(square)[None])
    torch.testing.assert_close(soft, F.softmax(torch.from_numpy(expected) / 2, dim=1), rtol=0.02, atol=0.005)


def test_a_teacher_stays_as_it_is(pixels):
    taught = classifier()
    before = {name: value.clone() for name, value in taught.network.state_dict().items()}
    taught.network.train()
    teacher = Teacher(taught.network, taught.preprocess, [0, 1, 2], TrainingRecipe())
    images = Preprocess(settings()).scale(torch.from_numpy(pixels)).requires_grad_()
    soft = teacher.soft_targets(images)
    assert not soft.requires_grad
    assert not any(parameter.requires_grad for parameter in taught.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in taught.network.state_dict().items())
    alone = torch.cat([teacher.soft_targets(images[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(alone, soft[:4], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close(pixels):
    taught = classifier()
    images = Preprocess(settings()).scale(torch.from_numpy(pixels))
    exact, rough = (
        Teacher(taught.network, taught.preprocess, [0, 1, 2], TrainingRecipe(precision=precision)).soft_targets(images)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < (exact - rough).abs().max() < 0.03


def test_a_student_learns_digits_from_its_teacher_alone():
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    truth = torch.from_numpy(labels).long()
    preprocess = PreprocessSettings("squash", 8, 1, (0.5,), (0.5,))

    def fit(recipe, teacher=None):
        torch.manual_seed(0)
        network = create("small_resnet", 10, 1)
        optimizer, loss = make_optimizer(network, recipe, fine_tuning=False), Loss(recipe)
        for step in range(60):
            set_rate(optimizer, "one-cycle", step / 60)
            rows = slice(step * 64 % 1536, step * 64 % 1536 + 64)
            soft = teacher.soft_targets(pixels[rows]) if teacher else None
            # A student has no labels of its own: all of them say 0.
            targets = truth[rows] if teacher is None else torch.zeros_like(truth[rows])
            rows_cost = loss.row_losses(network((pixels[rows] - 0.5) / 0.5), targets, soft)
            optimizer.zero_grad()
            rows_cost.mean().backward()
            optimizer.step()
        return network.eval()

    teacher = Teacher(fit(TrainingRecipe()), preprocess, range(10), TrainingRecipe())
    student = fit(TrainingRecipe(teacher_weight=1.0), teacher)
    with torch.no_grad():
        answers = student((pixels[1536:] - 0.5) / 0.5).argmax(dim=1)
    assert (answers == truth[1536:]).float().mean() > 0.85
