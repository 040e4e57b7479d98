"""An exported classifier as a web app: a folder that any host of files serves, answering in the browser alone."""
