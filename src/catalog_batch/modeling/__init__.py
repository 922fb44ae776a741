"""Networks, their preprocessing and the bundle that carries both from training to scoring.

Imports torch, torchvision, numpy, Pillow and safetensors only, and ONNX Runtime or OpenVINO for a
graph, so that every module here also runs on a GPU machine that has neither Spark nor Ray.
"""
