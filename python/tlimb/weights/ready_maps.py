"""Ready translations of the names in published files of weights.

A pair (pattern, replacement) is a regular expression and what stands for it, or None to drop the name. Prefixes such as
``module.`` or ``backbone.`` need no pair: matching finds them by itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadyMap:
    """How a family of published files names its tensors.

    title: what they are. reference: who published them. licence: of the published files, as far as known. marks:
    patterns that are all found among the names of such a file. axes: of its convolutions, None where it may be any.
    note: what a user should know.
    """

    title: str
    reference: str
    licence: str
    marks: tuple[str, ...]
    axes: int | None
    pairs: tuple[tuple[str, str | None], ...] = ()
    note: str = ""


GREY = "made for three channels standardised by ImageNet's means: one channel is taken for all three"

PAPER_VIT = f'has "qkv_bias": true, "norm_eps": 1e-6; {GREY}'
MONAI_VIT = (
    (r"(^|\.)cls_token$", r"\1patch_embedding.cls_token"),
    (r"\.(norm_)?cross_attn\.", None),
    (r"(^|\.)blocks\.(\d+)\.", r"\1layers.\2."),
)

READY_MAPS = {
    "resnet-imagenet": ReadyMap(
        "ResNet of torchvision or timm",
        "He et al. 2016, CVPR; torchvision, timm",
        "",
        (r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer4\.0\.bn1\.running_mean$", r"(^|\.)fc\.weight$"),
        2,
        note=GREY,
    ),
    "radimagenet-resnet": ReadyMap(
        "ResNet of RadImageNet",
        "Mei et al. 2022, Radiology: Artificial Intelligence",
        "",
        (r"(^|\.)backbone\.0\.weight$", r"(^|\.)backbone\.4\.0\.conv1\.weight$", r"(^|\.)backbone\.7\.0\.bn1\.weight$"),
        2,
        (
            (r"(^|\.)backbone\.0\.", r"\1conv1."),
            (r"(^|\.)backbone\.1\.", r"\1bn1."),
            (r"(^|\.)backbone\.4\.", r"\1layer1."),
            (r"(^|\.)backbone\.5\.", r"\1layer2."),
            (r"(^|\.)backbone\.6\.", r"\1layer3."),
            (r"(^|\.)backbone\.7\.", r"\1layer4."),
        ),
        "made for grey radiological slices in three channels: one channel is taken for all three",
    ),
    "densenet-imagenet": ReadyMap(
        "DenseNet of torchvision",
        "Huang et al. 2017, CVPR; torchvision",
        "BSD-3-Clause",
        (r"(^|\.)features\.denseblock1\.denselayer1\.(norm\.?1|conv\.?1)\.weight$",),
        2,
        ((r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3."),),
        GREY,
    ),
    "vit-timm": ReadyMap(
        "vision transformer of timm, DeiT, DINO or MAE",
        "Dosovitskiy et al. 2021, ICLR; timm",
        "",
        (r"(^|\.)patch_embed\.proj\.weight$", r"(^|\.)pos_embed$", r"(^|\.)blocks\.0\.attn\.qkv\.weight$"),
        2,
        (
            (r"(^|\.)cls_token$", r"\1patch_embedding.cls_token"),
            (r"(^|\.)pos_embed$", r"\1patch_embedding.position_embeddings"),
            (r"(^|\.)patch_embed\.proj\.", r"\1patch_embedding.patch_embeddings."),
            (r"(^|\.)blocks\.(\d+)\.", r"\1layers.\2."),
            (r"\.attn\.proj\.", ".attn.out_proj."),
            (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
        ),
        PAPER_VIT,
    ),
    "vit-torchvision": ReadyMap(
        "vision transformer of torchvision",
        "Dosovitskiy et al. 2021, ICLR; torchvision",
        "BSD-3-Clause",
        (r"(^|\.)conv_proj\.weight$", r"(^|\.)encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight$"),
        2,
        (
            (r"(^|\.)class_token$", r"\1patch_embedding.cls_token"),
            (r"(^|\.)conv_proj\.", r"\1patch_embedding.patch_embeddings."),
            (r"(^|\.)encoder\.pos_embedding$", r"\1patch_embedding.position_embeddings"),
            (r"(^|\.)encoder\.ln\.", r"\1norm."),
            (r"(^|\.)encoder\.layers\.encoder_layer_(\d+)\.", r"\1layers.\2."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
            (r"\.self_attention\.out_proj\.", ".attn.out_proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.linear1."),
            (r"\.mlp\.(3|linear_2)\.", ".mlp.linear2."),
        ),
        PAPER_VIT,
    ),
    "medicalnet": ReadyMap(
        "MedicalNet, 3D ResNets",
        "Chen, Ma, Zheng 2019, arXiv:1904.00625",
        "MIT",
        (r"^module\.conv1\.weight$", r"^module\.layer1\.0\.conv1\.weight$"),
        3,
        ((r"^module\.", ""), (r"^conv_seg\.", None)),
        'its own code dilates layers 3 and 4 ("dilated": true); its depths 18 and 34 have "shortcut": "A"',
    ),
    "brainiac": ReadyMap(
        "BrainIAC, 3D ResNet-50 pretrained by SimCLR",
        "Tak et al. 2024, medRxiv 2024.12.02.24317992",
        "CC BY-NC",
        (r"^backbone\.layer1\.0\.conv3\.weight$", r"^backbone\.layer4\.2\.conv3\.weight$"),
        3,
        ((r"^backbone\.", ""),),
    ),
    "brainiac-vit": ReadyMap(
        "BrainIAC, 3D ViT-B pretrained by SimCLR",
        "Tak et al. 2024, medRxiv 2024.12.02.24317992",
        "CC BY-NC",
        (r"^backbone\.patch_embedding\.position_embeddings$", r"^backbone\.blocks\.11\.attn\.qkv\.weight$"),
        3,
        ((r"^backbone\.", ""), *MONAI_VIT),
        'it takes the first patch as its features ("pooling": "first")',
    ),
    "vit-monai": ReadyMap(
        "vision transformer of MONAI",
        "Dosovitskiy et al. 2021, ICLR; MONAI",
        "",
        (r"(^|\.)patch_embedding\.position_embeddings$", r"(^|\.)blocks\.0\.attn\.qkv\.weight$"),
        None,
        MONAI_VIT,
    ),
    "sfcn": ReadyMap(
        "SFCN trained on UK Biobank",
        "Peng et al. 2021, Medical Image Analysis 68, 101871",
        "MIT",
        (r"(^|\.)feature_extractor\.conv_0\.0\.weight$", r"(^|\.)feature_extractor\.conv_5\.1\.running_mean$"),
        3,
        tuple((rf"^(module\.)?feature_extractor\.conv_{i}\.", f"block{i + 1}.") for i in range(6)),
    ),
    "swin-unetr": ReadyMap(
        "Swin transformer of Swin UNETR, pretrained by self-supervision",
        "Tang et al. 2022, CVPR; MONAI",
        "Apache-2.0",
        (r"(^|\.)layers1\.0\.blocks\.0\.attn\.relative_position_bias_table$",),
        3,
        ((r"(^|\.)swinViT\.", r"\1"), (r"\.mlp\.fc([12])\.", r".mlp.linear\1.")),
        'published 3D weights were trained with "merging": "repeated"',
    ),
    "slice-set": ReadyMap(
        "2D-slice set network, whole",
        "Gupta et al. 2021, ISBI; 2023",
        "",
        (r"^encoder_2d\.encoder_2d\.", r"^attn_post\.weight$"),
        2,
        (
            *((rf"^encoder_2d\.encoder_2d\.{i}\.0\.", f"slice_encoder.block{i + 1}.0.") for i in range(5)),
            (r"^encoder_2d\.encoder_2d\.(?=conv1|bn1|layer)", "slice_encoder."),
            (r"^encoder_2d\.post_proc_conv\.0\.", "slice_encoder.block6.0."),
            (r"^encoder_2d\.(post_position_encoding\.1|post_proc\.0)\.", "projection."),
            (r"^encoder_2d\.position_encoder\.position_encoding$", "position.encoding"),
            (r"^encoder_2d\.position_encoder\.ln\.", "position.norm."),
            (r"^pooled_attention\.S$", "aggregation.query"),
            (r"^pooled_attention\.fc_k\.", "aggregation.key."),
            (r"^pooled_attention\.fc_v\.", "aggregation.value."),
            (r"^pooled_attention\.ln0\.", "aggregation.norm."),
            (r"^pooled_attention\.fc_o\.", "aggregation.linear."),
            (r"^attn_post\.", "hidden."),
        ),
    ),
    "trans-mri-cae": ReadyMap(
        "convolutional autoencoder of trans-MRI, or the classifier on its encoder",
        "Atanaszov, Ritter 2019, Transfer learning for MRI",
        "MIT",
        (r"^encoder\.0\.0\.weight$", r"^encoder\.6\.0\.weight$"),
        3,
        (*((rf"^encoder\.{2 * i}\.0\.", f"block{i + 1}.0.") for i in range(4)), (r"^(decoder|classifier)\.", None)),
    ),
    "trans-mri-srcae": ReadyMap(
        "strided residual autoencoder of trans-MRI",
        "Atanaszov, Ritter 2019, Transfer learning for MRI",
        "MIT",
        (r"^encoder\.0\.conv_stride\.0\.weight$",),
        3,
        (*((rf"^encoder\.{i}\.", f"block{i + 1}.") for i in range(3)), (r"^(decoder|classifier)\.", None)),
    ),
}
"""Name in a sweep -> map."""
