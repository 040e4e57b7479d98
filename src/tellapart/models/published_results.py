"""Published results of each named network: year, number of parameters, MACs, and accuracy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """Size, cost and accuracy of a network at its original input size and number of classes.

    macs: multiply-accumulate operations per image, two FLOPs each. top1: published accuracy on `dataset`, in percent;
    None if none was published. source: of the accuracy.
    """

    year: int
    parameters: int
    macs: int
    top1: float | None = None
    dataset: str = ""
    source: str = ""


_TORCHVISION = "torchvision, pretrained weights"
_LITE = "tensorflow/tpu, models/official/efficientnet/lite"
_HE = "He et al. 2015, table 6"

PUBLISHED: dict[str, PublishedResult] = {
    "simple_cnn": PublishedResult(2019, 122_570, 4_548_608, 70, "CIFAR-10", "TensorFlow tutorial"),
    "small_resnet": PublishedResult(2018, 288_746, 38_634_752),
    "lenet5": PublishedResult(1998, 61_706, 416_520, 99.05, "MNIST", "LeCun et al. 1998, figure 9"),
    "alexnet": PublishedResult(2014, 61_100_840, 714_188_480, 56.522, "ImageNet-1k", _TORCHVISION),
    "vgg11": PublishedResult(2014, 132_863_336, 7_609_090_048, 69.02, "ImageNet-1k", _TORCHVISION),
    "vgg13": PublishedResult(2014, 133_047_848, 11_308_466_176, 69.928, "ImageNet-1k", _TORCHVISION),
    "vgg16": PublishedResult(2014, 138_357_544, 15_470_264_320, 71.592, "ImageNet-1k", _TORCHVISION),
    "vgg19": PublishedResult(2014, 143_667_240, 19_632_062_464, 72.376, "ImageNet-1k", _TORCHVISION),
    "vgg11_bn": PublishedResult(2015, 132_868_840, 7_609_090_048, 70.37, "ImageNet-1k", _TORCHVISION),
    "vgg13_bn": PublishedResult(2015, 133_053_736, 11_308_466_176, 71.586, "ImageNet-1k", _TORCHVISION),
    "vgg16_bn": PublishedResult(2015, 138_365_992, 15_470_264_320, 73.36, "ImageNet-1k", _TORCHVISION),
    "vgg19_bn": PublishedResult(2015, 143_678_248, 19_632_062_464, 74.218, "ImageNet-1k", _TORCHVISION),
    "googlenet": PublishedResult(2014, 6_624_904, 1_498_376_192, 69.778, "ImageNet-1k", _TORCHVISION),
    "inception_v3": PublishedResult(2015, 27_161_264, 5_713_216_096, 77.294, "ImageNet-1k", _TORCHVISION),
    "resnet18": PublishedResult(2015, 11_689_512, 1_814_073_344, 69.758, "ImageNet-1k", _TORCHVISION),
    "resnet34": PublishedResult(2015, 21_797_672, 3_663_761_408, 73.314, "ImageNet-1k", _TORCHVISION),
    "resnet50": PublishedResult(2015, 25_557_032, 4_089_184_256, 80.858, "ImageNet-1k", _TORCHVISION),
    "resnet101": PublishedResult(2015, 44_549_160, 7_801_405_440, 81.886, "ImageNet-1k", _TORCHVISION),
    "resnet152": PublishedResult(2015, 60_192_808, 11_513_626_624, 82.284, "ImageNet-1k", _TORCHVISION),
    "wide_resnet50_2": PublishedResult(2016, 68_883_240, 11_398_021_120, 81.602, "ImageNet-1k", _TORCHVISION),
    "resnext50_32x4d": PublishedResult(2016, 25_028_904, 4_230_479_872, 81.198, "ImageNet-1k", _TORCHVISION),
    "resnet20": PublishedResult(2015, 269_722, 40_551_040, 91.25, "CIFAR-10", _HE),
    "resnet32": PublishedResult(2015, 464_154, 68_862_592, 92.49, "CIFAR-10", _HE),
    "resnet44": PublishedResult(2015, 658_586, 97_174_144, 92.83, "CIFAR-10", _HE),
    "resnet56": PublishedResult(2015, 853_018, 125_485_696, 93.03, "CIFAR-10", _HE),
    "resnet110": PublishedResult(2015, 1_727_962, 252_887_680, 93.57, "CIFAR-10", _HE),
    "resnet1202": PublishedResult(2015, 19_421_274, 2_829_238_912, 92.07, "CIFAR-10", _HE),
    "resnet1001": PublishedResult(2016, 10_327_706, 1_490_995_712, 95.08, "CIFAR-10", "He et al. 2016, table 4"),
    "mobilenet_v1": PublishedResult(2017, 4_231_976, 568_740_352, 70.6, "ImageNet-1k", "Howard et al. 2017, table 8"),
    "mobilenet_v2": PublishedResult(2018, 3_504_872, 300_774_272, 72.154, "ImageNet-1k", _TORCHVISION),
    "mobilenet_v3_small": PublishedResult(2019, 2_542_856, 56_510_400, 67.668, "ImageNet-1k", _TORCHVISION),
    "mobilenet_v3_large": PublishedResult(2019, 5_483_032, 216_589_760, 75.274, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b0": PublishedResult(2019, 5_288_548, 385_814_752, 77.692, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b1": PublishedResult(2019, 7_794_184, 686_802_832, 79.838, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b2": PublishedResult(2019, 9_109_994, 1_087_529_456, 80.608, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b3": PublishedResult(2019, 12_233_232, 1_827_141_392, 82.008, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b4": PublishedResult(2019, 19_341_616, 4_393_771_024, 83.384, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b5": PublishedResult(2019, 30_389_784, 10_266_384_752, 83.444, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b6": PublishedResult(2019, 43_040_704, 19_067_593_536, 84.008, "ImageNet-1k", _TORCHVISION),
    "efficientnet_b7": PublishedResult(2019, 66_347_960, 37_745_884_192, 84.122, "ImageNet-1k", _TORCHVISION),
    "efficientnet_v2_s": PublishedResult(2021, 21_458_488, 8_365_617_152, 84.228, "ImageNet-1k", _TORCHVISION),
    "efficientnet_lite0": PublishedResult(2020, 4_652_008, 385_187_552, 75.1, "ImageNet-1k", _LITE),
    "efficientnet_lite1": PublishedResult(2020, 5_416_680, 600_185_232, 76.7, "ImageNet-1k", _LITE),
    "efficientnet_lite2": PublishedResult(2020, 6_092_072, 859_736_272, 77.6, "ImageNet-1k", _LITE),
    "efficientnet_lite3": PublishedResult(2020, 8_197_096, 1_383_321_872, 79.8, "ImageNet-1k", _LITE),
    "efficientnet_lite4": PublishedResult(2020, 13_006_568, 2_553_034_336, 81.5, "ImageNet-1k", _LITE),
    "convnext_tiny": PublishedResult(2022, 28_589_128, 4_455_531_264, 82.52, "ImageNet-1k", _TORCHVISION),
}
