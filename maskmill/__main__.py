"""`python -m maskmill …` is `maskmill …`."""

from maskmill.pipelines.cli.main import app

if __name__ == "__main__":
    app()
