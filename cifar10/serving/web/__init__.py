"""The web page, on Streamlit: one page a file, texts in `languages/`. Nothing here imports torch without need."""
