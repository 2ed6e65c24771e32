"""The networks on which the engine is measured, each with samples of its own."""

import timm
import torch
from torch import nn

from smd_evo.zoo import load
from smd_evo.zoo.cifar_resnet import CifarResNet


class Encoder(nn.Module):
    """A text classifier: six blocks of 256, four heads."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5000, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(256, 4)

    def forward(self, words):
        return self.head(self.blocks(self.embedding(words)).mean(1))


def policy():
    """An MLP as used for control."""
    return nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))


def many():
    """5,000 tensors."""
    return nn.Sequential(*(layer for _ in range(2500) for layer in (nn.Linear(8, 8), nn.Tanh())))


def networks():
    """Name, network, inputs, batch size and children of each."""
    torch.manual_seed(0)
    demo, data = load("demo-cnn", "digits")
    yield "demo CNN", demo, data.fitness[0], 512, 40
    yield "MLP policy", policy(), torch.randn(500, 24), 512, 100
    yield "ResNet-20", CifarResNet(20), torch.randn(256, 3, 32, 32), 64, 8
    yield "ResNet-18, 64 px", timm.create_model("resnet18", num_classes=10), torch.randn(128, 3, 64, 64), 64, 4
    yield "ViT-Tiny, 224 px", timm.create_model("vit_tiny_patch16_224"), torch.randn(64, 3, 224, 224), 64, 2
    yield "text transformer", Encoder(), torch.randint(5000, (64, 64)), 64, 4
    yield "5,000 tensors", many(), torch.randn(512, 8), 512, 8
