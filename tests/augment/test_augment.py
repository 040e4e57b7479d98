"""Augmentation and mixing: pure per sample, off unless asked for, and what Pillow and the papers define."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torch.nn import functional as F

from tellapart.augment import augment, mix
from tellapart.augment.color import COLOURS
from tellapart.augment.geometry import resample
from tellapart.augment.policy import AMOUNTS, Drawn, compose, draw
from tellapart.errors import BadRecipe
from tellapart.randomness import uniform
from tellapart.recipe import AugmentRecipe, from_table

BASIC = AugmentRecipe(True, 10.0, 0.2, 0.1, 0.1, 0.1, 0.1)
FULL = dataclasses.replace(BASIC, alternating_flip=True, policy="randaugment", policy_strength=0.6, erase=0.5)
EVERY = {
    "basic": BASIC,
    "randaugment": FULL,
    "trivialaugment": dataclasses.replace(FULL, policy="trivialaugment"),
    "policy alone": AugmentRecipe(policy="trivialaugment"),
    "many operations": AugmentRecipe(policy="randaugment", policy_ops=14, policy_strength=1.0),
    "erase alone": AugmentRecipe(erase=1.0),
    "alternating flip alone": AugmentRecipe(flip=True, alternating_flip=True),
}


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def images(request, small_pictures, written_digits):
    """20 real pictures (20, C, S, S) in 0..1, channels last in memory as training has them."""
    files = small_pictures if request.param == 3 else written_digits
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB"))[:, :, : request.param] for f in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("recipe", EVERY.values(), ids=EVERY)
def test_a_sample_is_changed_alike_in_any_batch(images, recipe):
    rows = np.arange(20) * 7 + 3
    before = images.clone()
    together = augment(images, recipe, 5, 2, rows)
    assert torch.equal(images, before)
    assert not torch.equal(together, before)
    order = np.random.default_rng(0).permutation(20)
    for places in (order, order[:7], order[7:8], order[8:10]):
        torch.testing.assert_close(augment(images[places], recipe, 5, 2, rows[places]), together[places])


@pytest.mark.parametrize("recipe", EVERY.values(), ids=EVERY)
def test_another_seed_or_epoch_gives_other_pictures(images, recipe):
    first = augment(images, recipe, 5, 2, np.arange(20))
    assert not torch.equal(augment(images, recipe, 5, 3, np.arange(20)), first)
    assert not torch.equal(augment(images, recipe, 6, 2, np.arange(20)), first)


def test_all_off_gives_the_very_same_tensor(images):
    assert augment(images, AugmentRecipe(), 0, 1, np.arange(20)) is images
    off = AugmentRecipe(False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, alternating_flip=True)
    assert augment(images, off, 0, 1, np.arange(20)) is images
    mixed, targets = mix(images, torch.arange(20), AugmentRecipe(), 0, 1, np.arange(20), 20)
    assert mixed is images
    assert torch.equal(targets, torch.eye(20))


def test_new_changes_leave_the_draws_of_the_old_ones(images):
    """Where erasing hits nothing, a picture is moved and lit as it was without it, though more numbers are drawn."""
    plain = augment(images, BASIC, 1, 4, np.arange(20))
    idle = dataclasses.replace(BASIC, erase=1e-12)
    assert torch.equal(augment(images, idle, 1, 4, np.arange(20)), plain)


@pytest.mark.parametrize("size", [8, 28, 97, 224])
def test_resampling_is_torchs_affine_grid_and_sample(size):
    torch.manual_seed(0)
    images, theta = torch.rand(3, 3, size, size), torch.eye(2, 3) + torch.randn(3, 2, 3) / 5
    grid = F.affine_grid(theta, [3, 3, size, size], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    # Not to the bit: processors round the places differently, the more the larger the side. A level is 4e-3.
    torch.testing.assert_close(resample(images, theta), expected, rtol=0, atol=4e-7 * size)


def test_light_is_gain_about_the_mean_and_shift(images):
    recipe = AugmentRecipe(brightness=0.3, contrast=0.4)
    noise = torch.from_numpy(uniform(2, 3, np.arange(20), 9)).float()[:, 7:] * 2 - 1
    gain, shift = 1 + noise[:, 0].view(-1, 1, 1, 1) * 0.4, noise[:, 1].view(-1, 1, 1, 1) * 0.3
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    expected = (images - mean) * gain + mean + shift
    torch.testing.assert_close(augment(images, recipe, 2, 3, np.arange(20)), expected, rtol=0, atol=1e-6)


def test_alternating_flips_alternate_from_a_random_side(images):
    recipe = AugmentRecipe(flip=True, alternating_flip=True)
    many = images[:1].expand(200, -1, -1, -1)
    sides = []
    for epoch in range(1, 7):
        changed = augment(many, recipe, 0, epoch, np.arange(200))
        mirrored = torch.isclose(changed, many.flip(3), atol=1e-5).all(dim=(1, 2, 3))
        same = torch.isclose(changed, many, atol=1e-5).all(dim=(1, 2, 3))
        assert bool((mirrored ^ same).all())
        sides.append(mirrored)
    assert 70 < int(sides[0].sum()) < 130
    for before, after in itertools.pairwise(sides):
        assert torch.equal(after, ~before)


def test_without_flip_an_alternating_flip_mirrors_nothing(images):
    still = AugmentRecipe(flip=False, alternating_flip=True, shift=0.1)
    plain = AugmentRecipe(flip=False, shift=0.1)
    assert torch.equal(augment(images, still, 0, 2, np.arange(20)), augment(images, plain, 0, 2, np.arange(20)))


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


def _by_pillow(image, name, amount):
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + amount)
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(abs(amount)))
    if name == "solarize":
        return ImageOps.solarize(image, math.ceil(256 * (1 - abs(amount))))
    return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](image)


# Pillow cuts a blend to whole levels, and before it the grey or the smoothed picture; where that is blended away, the
# error of its rounding is up to as large again. It also cuts autocontrast. What works on levels agrees exactly.
LEVELS = {"brightness": 1, "contrast": 1, "autocontrast": 1, "color": 2, "sharpness": 2}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("share", [-1.0, -0.4, 0.3, 1.0])
def test_operations_on_colours_are_pillows(images, photos, name, share):
    pictures = [(image.permute(1, 2, 0) * 255).round().byte().squeeze(2).numpy() for image in images]
    if images.shape[1] == 3:
        pictures += [np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in photos[:6]]
    for pixels in pictures:
        amount = share * AMOUNTS[name][1]
        expected = np.asarray(_by_pillow(Image.fromarray(pixels), name, amount)).astype(float)
        floats = torch.from_numpy(pixels.copy()).float().view(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2) / 255
        ours = COLOURS[name](floats, torch.full((1, 1, 1, 1), amount))
        found = ours[0].permute(1, 2, 0).numpy().reshape(expected.shape) * 255
        assert np.abs(found - expected).max() <= LEVELS.get(name, 0) + 1e-3


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_operations_on_colours_keep_plain_pictures_in_range(name, level):
    """A picture of one colour has no range to stretch and no levels to spread."""
    for amount in (-0.9, 0.0, 0.9):
        changed = COLOURS[name](torch.full((2, 3, 8, 8), level), torch.full((2, 1, 1, 1), amount))
        assert bool(((changed >= 0) & (changed <= 1)).all())
        if name in ("color", "sharpness", "autocontrast", "equalize"):
            torch.testing.assert_close(changed, torch.full((2, 3, 8, 8), level))


def _drawn(name, amount):
    return Drawn(np.array([[list(AMOUNTS).index(name)]]), np.array([[amount]]))


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("translate_x", 0.25, lambda x: torch.cat([x[..., 8:], x[..., -1:].expand(-1, -1, -1, 8)], dim=3)),
        ("translate_y", -0.25, lambda x: torch.cat([x[:, :, :1].expand(-1, -1, 8, -1), x[:, :, :-8]], dim=2)),
        ("rotate", 90.0, lambda x: x.rot90(1, (2, 3))),
        ("identity", 0.0, lambda x: x),
        ("equalize", 0.0, lambda x: x),
    ],
)
def test_geometric_operations_move_as_they_say(small_pictures, name, amount, expected):
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in small_pictures[:1]])
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    moved = resample(image, compose(None, _drawn(name, amount)))
    torch.testing.assert_close(moved, expected(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shear_is_pillows_affine(photos, name):
    picture = Image.open(photos[0]).convert("L").resize((65, 65))
    slant = 0.3
    matrix = (1, slant, -slant * 32.5, 0, 1, 0) if name == "shear_x" else (1, 0, 0, slant, 1, -slant * 32.5)
    expected = np.asarray(picture.transform((65, 65), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    image = torch.from_numpy(np.array(picture))[None, None].float() / 255
    moved = resample(image, compose(None, _drawn(name, slant)))[0, 0].numpy() * 255
    middle = slice(14, -14)  # beyond it Pillow has black and we have the border's colour
    assert np.abs(moved - expected)[middle, middle].max() <= 1.01


@pytest.mark.parametrize(("policy", "count"), [("randaugment", 3), ("trivialaugment", 1)])
def test_policies_draw_evenly_and_within_their_ranges(policy, count):
    recipe = AugmentRecipe(policy=policy, policy_ops=3, policy_strength=0.3)
    drawn = draw(recipe, uniform(0, 1, np.arange(20_000), 9))
    assert drawn.operations.shape == drawn.amounts.shape == (20_000, count)
    assert stats.chisquare(np.bincount(drawn.operations.ravel(), minlength=14)).pvalue > 1e-3
    widest = np.array(list(AMOUNTS.values()))[drawn.operations, int(policy == "trivialaugment")]
    shares = np.abs(drawn.amounts[widest > 0] / widest[widest > 0])
    if policy == "randaugment":
        np.testing.assert_allclose(shares, 0.3)
    else:
        assert stats.kstest(shares, "uniform").pvalue > 1e-3
    assert 0.47 < (drawn.amounts[widest > 0] > 0).mean() < 0.53
    assert draw(AugmentRecipe(), uniform(0, 1, np.arange(3), 9)) is None


def test_randaugment_of_no_strength_changes_only_what_has_none(images):
    """Identity, and what keeps its strength whatever the recipe says: autocontrast and equalize."""
    recipe = AugmentRecipe(policy="randaugment", policy_ops=1, policy_strength=0.0)
    numbers = uniform(0, 1, np.arange(20), 17)
    still = draw(recipe, numbers[:, 14:]).operations[:, 0] < list(AMOUNTS).index("autocontrast")
    assert still.any()
    changed = augment(images, recipe, 0, 1, np.arange(20))
    torch.testing.assert_close(changed[still], images[still], rtol=0, atol=1e-5)


def test_policies_stay_in_range(images):
    for epoch in range(1, 3):
        changed = augment(images, EVERY["many operations"], 0, epoch, np.arange(20))
        assert bool(((changed >= -1e-6) & (changed <= 1 + 1e-6)).all())


@pytest.mark.parametrize("chance", [0.25, 1.0])
def test_erasing_paints_boxes_of_the_papers_areas_as_often_as_asked(chance):
    torch.manual_seed(0)
    images = torch.rand(2000, 1, 32, 32)
    changed = augment(images, AugmentRecipe(erase=chance), 0, 1, np.arange(2000))
    differs = (changed != images)[:, 0]  # N S S
    hit = differs.any(dim=(1, 2))
    assert abs(float(hit.float().mean()) - chance) < 0.04
    areas, ratios = [], []
    for image, new, mask in zip(images[hit], changed[hit], differs[hit], strict=True):
        lines, columns = mask.any(dim=1).nonzero().ravel(), mask.any(dim=0).nonzero().ravel()
        box = new[0, lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]
        assert bool(mask[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1].all())
        torch.testing.assert_close(box, image.mean().expand(box.shape))
        areas.append(box.numel() / 1024)
        ratios.append(box.shape[0] / box.shape[1])
    assert 0.01 < min(areas) < 0.03
    assert 0.3 < max(areas) < 0.36  # whole pixels
    assert 0.16 < np.mean(areas) < 0.19
    assert 1 / 4.2 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4.2
    assert abs(np.mean(np.log(ratios))) < 0.06


def _pictures(count, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


MIXING = {
    "mixup": AugmentRecipe(mixup=0.4),
    "cutmix": AugmentRecipe(cutmix=1.0),
    "both": AugmentRecipe(mixup=0.4, cutmix=1.0),
}


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(list(MIXING)), st.lists(st.integers(0, 10**6), min_size=1, max_size=13, unique=True), st.data())
def test_mixed_pictures_have_the_shares_that_their_targets_say(kind, rows, data):
    rows, count = np.array(rows), len(rows)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    images = _pictures(count)
    before = images.clone()
    mixed, targets = mix(images, labels, MIXING[kind], 3, 2, rows, 5)
    # Pictures that are plain in their own channel and place are mixed as all are: their colours tell the shares.
    plain = torch.eye(count)[:, :, None, None].expand(-1, -1, 16, 16)
    colours, _ = mix(plain, labels, MIXING[kind], 3, 2, rows, 5)
    shares = colours.mean(dim=(2, 3))  # N N: of picture j in picture i
    assert torch.equal(images, before)
    assert targets.shape == (count, 5)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(targets, shares @ F.one_hot(labels, 5).float())
    torch.testing.assert_close(shares.diagonal(), shares.diagonal().flip(0))
    expected = torch.einsum("ijyx,jcyx->icyx", colours, images)
    torch.testing.assert_close(mixed, expected)
    if count % 2:
        middle = count // 2
        assert torch.equal(mixed[middle], images[middle])
        assert targets[middle, labels[middle]] == 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(list(MIXING)), st.integers(0, 2**31 - 1), st.integers(1, 12))
def test_mixing_is_alike_in_either_order_and_in_any_division_by_mirror_pairs(kind, seed, half):
    count = 2 * half
    images, labels, rows = _pictures(count), torch.arange(count) % 3, np.arange(count) * 11
    mixed, targets = mix(images, labels, MIXING[kind], seed, 1, rows, 3)
    turned, turned_targets = mix(images.flip(0), labels.flip(0), MIXING[kind], seed, 1, rows[::-1].copy(), 3)
    torch.testing.assert_close(turned.flip(0), mixed)
    torch.testing.assert_close(turned_targets.flip(0), targets)
    for rank in range(2):
        places = np.array([i for i in range(count) if min(i, count - 1 - i) % 2 == rank])
        if len(places):
            part, part_targets = mix(images[places], labels[places], MIXING[kind], seed, 1, rows[places], 3)
            assert torch.equal(part, mixed[places])
            assert torch.equal(part_targets, targets[places])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_of_mixup_are_of_the_beta_distribution(alpha):
    rows, labels = np.arange(4000), torch.arange(4000) // 2000  # partners differ in label
    _, targets = mix(torch.rand(4000, 1, 1, 1), labels, AugmentRecipe(mixup=alpha), 0, 1, rows, 2)
    assert stats.kstest(targets[:2000, 0].double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_pastes_one_box_whose_area_is_the_share():
    images, labels = torch.tensor([0.0, 1.0]).repeat_interleave(300)[:, None, None, None], torch.arange(600) // 300
    mixed, targets = mix(images.expand(-1, 1, 20, 20), labels, MIXING["cutmix"], 0, 1, np.arange(600), 2)
    pasted = mixed[:300, 0]
    assert set(pasted.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(pasted.mean(dim=(1, 2)), targets[:300, 1])
    rectangle = pasted.amax(dim=1, keepdim=True) * pasted.amax(dim=2, keepdim=True)
    assert torch.equal(rectangle, pasted)
    assert 0.15 < float(pasted.mean()) < 0.4  # below 0.5: the border cuts boxes


def test_each_pair_draws_mixup_or_cutmix():
    images, labels = torch.tensor([0.0, 1.0]).repeat_interleave(1000)[:, None, None, None], torch.arange(2000) // 1000
    mixed, _ = mix(images.expand(-1, 1, 16, 16), labels, MIXING["both"], 0, 1, np.arange(2000), 2)
    plain = (mixed[:1000].amax(dim=(1, 2, 3)) == mixed[:1000].amin(dim=(1, 2, 3))).float().mean()
    assert 0.45 < float(plain) < 0.6  # of mixup; and a few boxes hold no pixel


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alternating_flip": 1}, "augment.alternating_flip must be of type true or false"),
        ({"policy": "randaug"}, "augment.policy must be one of .* Did you mean 'randaugment'"),
        ({"policy_ops": 0}, "augment.policy_ops must be from 1 to 14, not 0"),
        ({"policy_ops": 1.5}, "augment.policy_ops must be of type whole number"),
        ({"policy_strength": 1.01}, "augment.policy_strength must be from 0 to 1"),
        ({"erase": -0.1}, "augment.erase must be from 0 to 1"),
        ({"erase": float("nan")}, "augment.erase must be from 0 to 1"),
        ({"mixup": -1}, "augment.mixup must be from 0 to 100"),
        ({"cutmix": 101}, "augment.cutmix must be from 0 to 100"),
    ],
)
def test_settings_out_of_bounds_are_refused(values, message):
    with pytest.raises(BadRecipe, match=message):
        from_table({"augment": values})


def test_the_lowest_alpha_that_a_float_holds_leaves_nearly_all_pairs_whole():
    mixed, targets = mix(_pictures(200), torch.arange(200), AugmentRecipe(mixup=5e-324), 0, 1, np.arange(200), 200)
    assert bool(torch.isfinite(mixed).all())
    assert float((targets.amax(dim=1) > 0.999).float().mean()) > 0.95
