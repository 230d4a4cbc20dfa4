"""The commands of `maskmill label`: one file a labeler, with `NAME` and `command`; the CLI finds them by itself."""
