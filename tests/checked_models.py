"""The source of small models that ``fullgrad check`` is tried on."""

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [16, 20], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["black cat", "dog", "bird"]

def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))

def deep():
    layers = [layer for _ in range(40) for layer in (nn.Linear(5, 5), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(5, 3))

def long():
    net = nn.Sequential()
    net.add_module("a" * 200 + "_one", nn.Linear(6, 6))
    net.add_module("a" * 200 + "_two", nn.Linear(6, 3))
    return net

def volume():
    return nn.Sequential(nn.Conv3d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

def unbiased():
    return nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))

def double():
    return small().double()

def dense():
    return nn.Conv2d(3, 4, 3)

def zero():
    net = nn.Linear(6, 3)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net

class General(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)
    def forward(self, x):
        return self.net(x.cumprod(1)) + self.net(x.tanh().cumprod(1))

class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
    def forward(self, x):
        return self.net(x).squeeze(1)

class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, 4)
        self.cls = nn.Parameter(torch.ones(1, 1, 4))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)
    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(x).mean(1))

class Scrambled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(60, 4), nn.Linear(4, 3)
    def forward(self, x):
        return self.head(self.embed(x.transpose(1, 3).reshape(-1, 16, 60)).mean(1))

class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()
    def forward(self, x):
        return self.net(x.detach())

class Infinite(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * float("inf")
"""
