"""Stage two of MCTL (§3.3): a small 3D CNN, its convolutions taken from the autoencoder.

Other encoders take the place of the convolutions by name.
"""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_modules.backbones import Backbone, build_backbone, load_weights
from lightning_modules.encoder import Encoder, Norm, warn_if_thin
from lightning_modules.fusion import mean_over_contrasts
from lightning_modules.parts.attention_3d import AttentionName, build_attention
from lightning_modules.parts.branches import Branches, Fuse, has_branches
from lightning_modules.parts.lora import freeze_or_adapt
from lightning_modules.readout import Readout, ReadoutName
from lightning_modules.scan_classifier import NOT_PLAIN, Head, ScanClassifier

# Axes: B = batch; C = channels; F = features; P = covariates; K = classes; W, H, D = voxels along
# R, A, S.


class Classifier(ScanClassifier):
    """Classify volumes with one sigmoid output per class; the highest output is the class.

    Args:
        num_classes: Number of classes; the command line takes it from the cohort.
        spatial_shape: Voxels of a volume along R, A, S; taken from the cohort as well.
        depth: Number of convolutions (MCTL Table 1: 1, 2, 3).
        filters: Filters of each convolution (Table 1: 16, 32, 64).
        nodes: Nodes of the fully connected layer (Table 1: 16, 32, 64); 0 leaves it out: the
            outputs see the encoder's directly.
        pool: Max-pooling factor after each convolution; 1 is the paper's network taken literally.
        norm: Normalisation of what each pooling keeps; the paper has none.
        kernel_size: Voxels of a filter along each axis, 3 in the paper; several, such as [3, 5],
            are encoders next to each other, one for each.
        readout: How the encoder's maps become the head's inputs: 'flatten' takes every voxel of
            every map, as in the paper; 'mean', 'max' and 'mean_max' one or two numbers of each
            map; 'flatten_max' every voxel and the maxima.
        attention: What stands between encoder and readout: 'se' weighs the maps (squeeze and
            excitation), 'cbam' maps and places, 'self' lets each voxel see all others; mctl's.
        dropout: Share of the head's inputs dropped while training.
        freeze_encoder: Train the head alone.
        lora_rank: Rank of updates of a transformer's linear layers, which learn in its place
            (LoRA, Hu et al. 2022): for backbones such as vit; 0 is none.
        backbone: 'mctl' is the paper's network; other names are 3D networks of MONAI: resnet18,
            densenet121, efficientnet-b0, vit, swin, segresnet, mednext-s, unetr, …
            (lightning_modules/backbones.py). They have one
            linear layer for a head; `depth`, `filters`, `nodes`, `pool`, `norm` and `kernel_size`
            are mctl's. Names with + between them are networks next to each other.
        fuse: How features of several networks, or maps of several kernel sizes, come together:
            'concat' puts them next to each other, 'add' projects and adds them.
        fusion: How several contrasts come together: 'channels' gives them all to the first
            convolution; 'encoders' gives each to one encoder that they share, and averages its
            features over those that are there: a scan may lack some, and INIT may be pretrained on
            one contrast.
        contrast_dropout: By 'encoders', share of the training scans that lose one of their
            contrasts, another one each time.
        weights_path: File of pretrained weights of such a network, for instance MedicalNet's, to
            start from; a list for several. It does not tell which patients it has seen: make sure
            that yours are not among them.
        training: What every classifier has, see ScanClassifier.

    Raises:
        ValueError: If the settings do not fit each other or the volumes.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        spatial_shape: tuple[int, int, int] | None = None,
        depth: int = 3,
        filters: int = 16,
        nodes: int = 32,
        pool: int = 2,
        norm: Norm = "batch",
        kernel_size: list[int] | int = 3,
        readout: ReadoutName = "flatten",
        attention: AttentionName = "none",
        dropout: float = 0.3,
        freeze_encoder: bool = False,
        lora_rank: int = 0,
        backbone: str = "mctl",
        fuse: Fuse = "concat",
        fusion: Literal["channels", "encoders"] = "channels",
        contrast_dropout: float = 0.1,
        weights_path: list[str] | str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(num_classes, spatial_shape, **training)
        self.save_hyperparameters(ignore=NOT_PLAIN)
        assert num_classes is not None
        assert spatial_shape is not None
        if weights_path and (backbone == "mctl" or training.get("init_ckpt")):
            raise ValueError(
                "weights_path is the start of a MONAI backbone: name the backbone, and give either "
                "weights_path or a run to start from (INIT)."
            )
        if attention != "none" and backbone != "mctl":
            raise ValueError(
                f"attention is {attention}, which needs the maps of the paper's network: leave it "
                f"at none with backbone {backbone}."
            )
        if kernel_size == []:
            raise ValueError("kernel_size is an empty list; give one number or more, such as 3.")
        if not 0 <= contrast_dropout <= 1:
            raise ValueError(f"contrast_dropout is {contrast_dropout}; set it to 0 to 1.")
        channels, num_more = self.hparams["num_channels"], self.hparams["num_covariates"]
        num_flags = 0
        if fusion == "encoders":
            channels, num_flags = 1, channels  # which contrasts are there
        self.encoder: Encoder | Branches | Backbone
        if backbone == "mctl":
            sizes = [kernel_size] if isinstance(kernel_size, int) else kernel_size
            settings = (depth, filters, pool, norm, channels, spatial_shape)
            each = [Encoder(*settings, size) for size in sizes]
            self.encoder = each[0]
            if len(each) > 1:
                self.encoder = Branches(each, [filters] * len(each), fuse)
            self.readout = Readout(readout)
            maps_shape = each[0].output_shape(spatial_shape)
            num_maps = self.encoder.num_features
            self.attention = build_attention(attention, num_maps, maps_shape)
            num_features = self.readout.num_features(num_maps, maps_shape) + num_flags
            hidden: list[nn.Module] = []
            if nodes:
                hidden = [nn.Linear(num_features, nodes), nn.ReLU(), nn.Dropout(dropout)]
            self.head = Head(
                nn.Flatten(),
                nn.Dropout(dropout),
                *hidden,
                nn.Linear((nodes or num_features) + num_more, num_classes),
            )
        else:
            self.encoder = build_backbone(backbone, spatial_shape, channels, fuse)
            self.attention = nn.Identity()
            self.readout = Readout("flatten")  # a backbone pools itself
            self.head = Head(
                nn.Dropout(dropout),
                nn.Linear(self.encoder.num_features + num_flags + num_more, num_classes),
            )
        freeze_or_adapt(self.encoder, freeze_encoder, lora_rank)

    @property
    @override
    def takes_missing(self) -> bool:  # type: ignore[override]
        return self.hparams["fusion"] == "encoders"

    def forward(
        self,
        volume: Float[Tensor, "b c w h d"],
        covariates: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """Compute one logit per class."""
        return self.head(self.features(volume), covariates)

    @override
    def features(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        self.check_shape(volume)
        if self.hparams["fusion"] == "encoders":
            drop = self.hparams["contrast_dropout"] if self.training else 0.0
            return mean_over_contrasts(self._encode, volume, drop)
        return self._encode(volume)

    def _encode(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        return self.readout(self.attention(self.encoder(volume)))

    @override
    def summary(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        if self.hparams["fusion"] == "encoders":
            return mean_over_contrasts(self._summary, volume)
        return self._summary(volume)

    def _summary(self, volume: Float[Tensor, "b c w h d"]) -> Float[Tensor, "b f"]:
        maps = self.encoder(volume)  # averaged over each octant; a backbone pools itself
        return F.adaptive_avg_pool3d(maps, 2).flatten(1) if maps.ndim == 5 else maps

    @property
    @override
    def has_class_maps(self) -> bool:
        is_flat = isinstance(self.encoder, Backbone) and self.encoder.is_flat
        ends_with_tokens = self.hparams["backbone"].startswith(("vit", "unetr", "swin"))
        return not (is_flat or ends_with_tokens or has_branches(self.encoder))

    @override
    def load_start(self) -> None:
        super().load_start()
        if weights_path := self.hparams["weights_path"]:
            assert isinstance(self.encoder, Backbone)
            load_weights(self.encoder, weights_path)

    @override
    def setup(self, stage: str) -> None:
        encoders = [part for part in self.encoder.modules() if isinstance(part, Encoder)]
        for encoder in encoders if stage == "fit" else []:
            warn_if_thin(encoder, self.hparams["spatial_shape"], "Scans")
        super().setup(stage)
