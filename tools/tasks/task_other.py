"""Tasks on sounds, series and graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from task import Case, Task, library, noise, seeded

EDGES = torch.tensor([[0, 1, 2, 3, 1, 4], [1, 2, 3, 0, 0, 3]])


def waveform() -> Case:
    tf = library("transformers")

    config = tf.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
    )
    model = seeded(lambda: tf.Wav2Vec2ForSequenceClassification(config))
    x = {"input_values": noise(2, 200)}
    return Case(model, x, lambda o: o.logits[:, 1], [*x], {"input_values": "BT"})


def spectrogram() -> Case:
    tf = library("transformers")

    config = tf.ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
    )
    model = seeded(lambda: tf.ASTForAudioClassification(config))
    x = {"input_values": noise(2, 32, 16)}
    return Case(model, x, lambda o: o.logits[:, 1], [*x], {"input_values": "BTF"})


class Sound(nn.Module):
    """A waveform, its mel spectrogram, a small network; one number a frame."""

    def __init__(self) -> None:
        super().__init__()
        torchaudio = library("torchaudio")

        window = torch.hamming_window  # no weight of it is zero, so every sample is read
        self.mel = torchaudio.transforms.MelSpectrogram(
            8000, n_fft=64, hop_length=32, n_mels=8, window_fn=window
        )
        self.conv, self.head = nn.Conv1d(8, 6, 3, padding=1), nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames: Tensor = self.head(nn.functional.gelu(self.conv((self.mel(x) + 1e-3).log())))
        return frames


def front_end() -> Case:
    x = {"x": noise(2, 400)}
    return Case(seeded(Sound), x, lambda o: o[:, 1, 5], ["x"], {"x": "BT"})


def pitch() -> Case:
    torchcrepe = library("torchcrepe")

    model = seeded(lambda: torchcrepe.Crepe("tiny"))
    return Case(model, {"x": noise(2, 1024)}, lambda o: o[:, 100], ["x"], {"x": "BT"})


def series() -> Case:
    tf = library("transformers")

    config = tf.PatchTSTConfig(
        num_input_channels=3,
        context_length=32,
        patch_length=8,
        patch_stride=8,
        d_model=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        ffn_dim=24,
        num_targets=2,
    )
    model = seeded(lambda: tf.PatchTSTForClassification(config))
    x = {"past_values": noise(2, 32, 3)}
    return Case(model, x, lambda o: o.prediction_logits[:, 1], [*x], {"past_values": "BTC"})


class OfNodes(nn.Module):
    """Two graph convolutions over one graph, a number for each node."""

    def __init__(self) -> None:
        super().__init__()
        layers = library("torch_geometric.nn")
        self.first, self.second = layers.GCNConv(3, 8), layers.GCNConv(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x[0], edge_index).relu(), edge_index)
        return hidden[None]


def nodes() -> Case:
    stated = {"first": "(B N) C", "second": "(B N) C"}
    batch = {"x": noise(1, 5, 3), "edge_index": EDGES}
    options = {"activation_layouts": stated}
    return Case(seeded(OfNodes), batch, lambda o: o[:, 1, 1], ["x"], {"x": "BNC"}, options=options)


class OfGraph(nn.Module):
    """Attention over the edges of one graph, the mean of its nodes, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers = library("torch_geometric.nn")
        self.attend, self.head = layers.GATConv(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        pool = library("torch_geometric.nn").global_mean_pool
        hidden = self.attend(x[0], edge_index).relu()
        found: Tensor = self.head(pool(hidden, torch.zeros(len(hidden)).long()))
        return found


def graphs() -> Case:
    options = {"detached": "constant", "activation_layouts": {"attend": "(B N) C", "head": "B C"}}
    batch = {"x": noise(1, 5, 3), "edge_index": EDGES}
    return Case(seeded(OfGraph), batch, lambda o: o[:, 1], ["x"], {"x": "BNC"}, options=options)


_STATED = "`activation_layouts=`: a node's numbers lie at the node, which the call must say"

TASKS = (
    Task("sound, waveform", "transformers", "Wav2Vec2", "logit of class 1", waveform),
    Task("sound, spectrogram", "transformers", "AST", "logit of class 1", spectrogram),
    Task("sound, STFT front end", "torchaudio", "mel and convolutions", "a frame", front_end),
    Task("pitch", "torchcrepe", "CREPE", "a bin of pitch", pitch),
    Task("series of several channels", "transformers", "PatchTST", "logit of class 1", series),
    Task(
        "graph, node",
        "torch-geometric",
        "GCN",
        "class 1 of node 1",
        nodes,
        note=_STATED,
        refused="it is not known where the numbers of add in first",
    ),
    Task(
        "graph, whole",
        "torch-geometric",
        "GAT",
        "logit of class 1",
        graphs,
        note=_STATED + "; `detached='constant'`: the largest score of a softmax over edges is "
        "taken off without a gradient",
        refused="leave the autograd graph in 'attend'",
    ),
)
