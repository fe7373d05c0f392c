"""The figures of the paper's Tables 1, 2 and 3, as printed, to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass

IM, CIM, CORRELATION = "IM", "cIM", "correlation"


@dataclass(frozen=True)
class Published:
    """One row of Table 1 or 2: data and network as printed there, the metric, and each method's figure."""

    place: str
    metric: str
    figures: dict[str, float]


def _rows(columns: str, *lines: str) -> tuple[Published, ...]:
    names = columns.split()
    made = []
    for line in lines:
        place, metric, *figures = line.split()
        made.append(Published(place, metric, dict(zip(names, map(float, figures), strict=True))))
    return tuple(made)


TABLE_1 = _rows(
    "ND DMBP+ DMBP+- DMBP",
    "VOC/VGG16 IM .36 .62 .51 .57",
    "VOC/VGG16 cIM .09 .06 .18 .16",
    "VOC/RN50 IM .30 .58 .59 .61",
    "VOC/RN50 cIM .15 .15 .22 .22",
    "ImNet/VGG16 IM .24 .37 .37 .39",
    "ImNet/RN50 IM .26 .50 .51 .57",
)

# The paper's Grad is gradient × input, which it calls ND in Table 1: one column here.
TABLE_2 = _rows(
    "ND IG SG BIG DL GBp GGC LPR RISE FG GC DMBP",
    "VOC/VGG16 IM 0.36 0.43 0.55 0.36 0.41 0.32 0.35 0.40 0.41 0.28 0.35 0.57",
    "VOC/VGG16 cIM 0.09 0.06 0.06 0.08 0.07 0.06 0.12 0.07 0.13 0.10 0.13 0.16",
    "VOC/RN50 IM 0.30 0.36 0.47 0.27 0.34 0.39 0.50 0.40 0.51 0.44 0.51 0.61",
    "VOC/RN50 cIM 0.15 0.16 0.15 0.15 0.15 0.13 0.19 0.14 0.21 0.14 0.21 0.22",
    "ImNet/VGG16 IM 0.23 0.28 0.38 0.21 0.30 0.32 0.36 0.28 0.28 0.43 0.48 0.41",
    "ImNet/RN50 IM 0.26 0.30 0.40 0.27 0.29 0.43 0.50 0.33 0.33 0.53 0.55 0.56",
)

# The last row of Table 2: the mean of the six above it.
AVERAGE = "Avg"
AVERAGE_2 = _rows(
    "ND IG SG BIG DL GBp GGC LPR RISE FG GC DMBP",
    "Avg IM,cIM 0.23 0.27 0.34 0.22 0.26 0.28 0.34 0.27 0.31 0.32 0.37 0.42",
)

# Table 3 is printed with a row for each method; here as the others, with a row for each network.
TABLE_3 = _rows(
    "GBp GGC DMBP",
    "VOC/VGG16 correlation 0.99 0.25 0.02",
    "VOC/RN50 correlation 0.99 0.28 -0.03",
    "ImNet/VGG16 correlation 0.99 0.35 0.00",
    "ImNet/RN50 correlation 0.99 0.45 0.00",
)

# Which of the paper's networks and data ours are: (family of the data, name of the model) → as printed.
PLACES = {
    ("VOC2012", "voc:vgg16"): "VOC/VGG16",
    ("VOC2012", "voc:resnet50"): "VOC/RN50",
    ("ImageNet", "torchvision:vgg16"): "ImNet/VGG16",
    ("ImageNet", "torchvision:resnet50"): "ImNet/RN50",
}

# What the paper's tables call each method, by its label here.
COLUMNS = {
    "nd": "ND", "gradient": "gradient", "ig": "IG", "smoothgrad": "SG", "blur-ig": "BIG", "deeplift": "DL",
    "guided-backprop": "GBp", "guided-gradcam": "GGC", "gradcam": "GC", "rise": "RISE", "fullgrad": "FG",
    "lpr": "LPR", "random": "random", "dmbp": "DMBP", "dmbp:loss=+": "DMBP+", "dmbp:loss=+-": "DMBP+-",
}  # fmt: skip


def column(name: str) -> str:
    """The title of a method's column: the paper's, with the options that are not the default."""
    sharp, blurred, sigma = name.partition(" blurred by ")
    label, colon, options = sharp.partition(":")
    title = COLUMNS.get(sharp) or COLUMNS.get(label, label) + colon + options
    return f"{title} blur {sigma}" if blurred else title
