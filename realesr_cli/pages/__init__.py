"""Pages that a browser opens from disk: one file each, with its pictures inside, that asks for nothing from elsewhere.

In reading order: frame.py (the files of a page put together), compare_page.py (pictures under a divider), contact.py
(before and after of a run). Beside them HTML, style sheets and scripts, as a browser reads them.
"""
