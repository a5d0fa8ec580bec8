"""The broker over HTTP. Weights never pass through here: clients read and put them by links."""
