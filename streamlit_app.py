"""The web page: `python commands.py app`, or `streamlit run streamlit_app.py`."""

from cifar10.serving.web.site import run

run()
