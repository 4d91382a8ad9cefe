"""Trained zero-shot segmentation: Cascade-CLIP and CLIP-RC.

Cascade-CLIP (Li et al., ICML 2024) and CLIP-RC (Zhang et al., CVPR 2024) descend from ZegCLIP
(Zhou et al., CVPR 2023): a frozen CLIP with deep visual prompts, text embeddings as class
queries, and the products of queries and patches as masks. They train with masks of the seen
classes and also segment the unseen ones. Where the papers and the published code differ, this
package follows the code.

The mathematics is in this package; `itaclip.research.zero_shot.openmmlab` wraps it for MMSegmentation, and
`itaclip.research.zero_shot.commands` contains the programs.
"""
