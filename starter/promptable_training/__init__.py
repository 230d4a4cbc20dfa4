"""How the starter promptable model was made: an EdgeTAM of transformers whose backbone is the packaged
EfficientNet-Lite0, taught on composed pictures, where every mask is exact.

    # Debian's cut-outs and photos, all under free licences
    apt-get download tuxpaint-stamps-default mate-backgrounds gcompris-qt-data
    for f in *.deb; do dpkg -x $f debs; done
    # as often as there is time for; the last turn cools the learning rate down to 0
    python -m maskmill.starter.promptable_training train --pictures debs --work DIR --minutes 30
    python -m maskmill.starter.promptable_training train --pictures debs --work DIR --minutes 30 --last
    python -m maskmill.starter.promptable_training export --work DIR --out FOLDER

Every turn resumes from DIR. SIGTERM ends a turn early and keeps its steps.
"""
