"""Trained zero-shot segmentation: Cascade-CLIP and CLIP-RC.

Cascade-CLIP (Li et al., ICML 2024) and CLIP-RC (Zhang et al., CVPR 2024) descend from ZegCLIP
(Zhou et al., CVPR 2023): a frozen CLIP with deep visual prompts, text embeddings as class
queries, and the products of queries and patches as masks. They are trained with masks of the
seen classes and segment the unseen ones too. What is computed here is what the published code
computes, where it differs from the papers.

The mathematics stands in this package; `itaclip.zero_shot.openmmlab` makes MMSegmentation
models of it, and `itaclip.zero_shot.commands` the programs.
"""
