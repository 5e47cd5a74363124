"""The factory that makes labelled data sets from recipes."""
